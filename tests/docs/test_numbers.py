"""Numbers in the prose of pages are those of the records that the pages name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.pages import page

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def record(name: str) -> Any:
    return json.loads((RESULTS / name).read_text("utf-8"))


def prose(name: str) -> str:
    """A page in one line, so that line breaks do not matter."""
    return " ".join(page(name).read_text("utf-8").split())


def solved(model: str, arm: str) -> str:
    arms = {found["name"]: found for found in record("demo.json")["models"][model]["arms"]}
    return f"{100 * arms[arm]['solved'] / arms[arm]['puzzles']:.1f} %"


def test_what_a_recursion_makes_of_a_local_error_is_what_the_demo_measured() -> None:
    low = [solved(model, "ONNX, fidelity 0.95") for model in ("attention", "sudoku")]
    exact = [solved(model, "eager") for model in ("attention", "sudoku")]
    said = f"solve {low[0]} and {low[1]} of their puzzles, exactly {exact[0]} and {exact[1]}"
    assert said in prose("mathematics.md")


def test_what_detection_costs_is_what_the_benchmark_measured() -> None:
    clean = record("compile.json")["clean"]
    (least, most), (all_least, all_most) = (
        (round(min(row[of] for row in clean)), round(max(row[of] for row in clean))) for of in ("detect", "total")
    )
    said = f"detection takes {least} to {most} µs a node, all passes together {all_least} to {all_most}"
    assert said in prose("detection.md")
    assert clean[0]["nodes"] // 1000 == 1
    assert clean[-1]["nodes"] // 1000 == 200


def test_programs_as_files_are_those_that_were_written() -> None:
    whole, steps = record("fuzz_onnx.json"), record("fuzz_onnx_step.json")
    assert whole["failures"] == steps["failures"] == []
    assert set(steps["refused"]) <= {"step, no loop"}
    named = "`, `".join(whole["forms"][:2])
    said = f"wrote {whole['cases']} random programs as `{named}` and `{whole['forms'][2]}` files, and "
    with_loop = steps["cases"] - sum(steps["refused"].values())
    said += f"{with_loop} of {steps['cases']} as `step` files, all that have a loop; each answers as eager"
    readme = (RESULTS.parents[1] / "README.md").read_text("utf-8")
    assert said in " ".join(readme.split())


def test_speeds_of_exported_files_are_those_on_record() -> None:
    parts = record("deploy.json")["parts"]
    rolled = [cell["rows"][0] for cell in parts["latency"].values() if cell.get("rows")]
    assert {row["arm"] for row in rolled} == {"rolled"}
    exports = [row for row in parts["export"].values() if row["size"] == "256x81"]
    seconds = {(row["how"], row["steps"]): row["seconds"] for row in exports}
    peer = seconds["torch", 4]
    readme = (RESULTS.parents[1] / "README.md").read_text("utf-8")
    for of in ("of_unrolled", "of_eager"):
        values = [row[of] for row in rolled if row[of] is not None]
        assert f"| {min(values):.2f} – {max(values):.2f} × |" in readme
    assert f"| {seconds['loop', 16] / peer:.3f} × |" in readme
    assert f"| {seconds['traced', 16] / peer:.3f} ×, missed" in readme


def test_the_matrix_of_families_is_what_was_run() -> None:
    found = record("matrix.json")
    outcomes = found["outcomes"]
    assert found["failures"] == {}
    assert found["cells"] == sum(outcomes.values()) == len(found["families"]) * 4 * 4 * 4
    written = outcomes["equals eager"] + outcomes["verified in float32"]
    said = (
        f"Of {found['cells']:,} files of {len(found['families'])} families in 4 forms, 4 dtypes and 4 kinds of bases, "
    )
    said += f"{written:,} were written and answer as eager"
    readme = (RESULTS.parents[1] / "README.md").read_text("utf-8")
    assert said in " ".join(readme.split())
