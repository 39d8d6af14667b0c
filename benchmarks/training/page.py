"""Fills the tables of docs/training-memory.md from the JSON, and draws its picture.

    python -m benchmarks.training.page

A table stands between ``<!-- name -->`` and ``<!-- /name -->``; what is written around it stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.training.cases import CASES
from benchmarks.training.pareto import best_peer
from benchmarks.training.targets import TARGETS, verdict
from laser_fx.files import write_text

__all__ = ["BLOCKS", "PAGE", "PICTURE", "RESULT", "filled"]

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "training_memory.json"
PAGE = ROOT / "docs" / "training-memory.md"
PICTURE = ROOT / "docs" / "training-memory.png"
Recorded = Mapping[str, Any]


def filled(text: str, recorded: Recorded) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: a table has no place on the page.
    """
    for name, make in BLOCKS.items():
        place = re.compile(rf"<!-- {name} -->\n.*?<!-- /{name} -->", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"{PAGE.name} has no <!-- {name} --> … <!-- /{name} -->")
        before, after = place.split(text)[0], place.split(text)[-1]
        text = f"{before}<!-- {name} -->\n{make(recorded)}\n<!-- /{name} -->{after}"
    return text


def _table(titles: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    heads = list(titles)
    rows = [heads, ["---", *["---:" if head in _RIGHT else "---" for head in heads[1:]]], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


_RIGHT = {"held", "peak", "time", "gradient error", "cosine", "bytes a block call", "residual", "block calls in 4 GB"}


def _targets(recorded: Recorded) -> str:
    lines = []
    for target in TARGETS:
        for case in recorded["cases"]:
            rows = {row["arm"]: row for row in case["rows"]}
            lines += [[target.plan, name, case["title"], *_reached(target, name, rows, case)] for name in target.arms]
    return _table(
        ("plan", "arm", "case", "aim: held, time", "held", "time", "gradient error", "cosine", "verdict"), lines
    )


def _reached(target: Any, name: str, rows: Mapping[str, Any], case: Recorded) -> list[str]:
    all_cycles = bool(case["config"]["full_gradient"])
    aim = f"≤ {100 * target.held:g} %, ≤ {target.time_all if all_cycles else target.time_last:.2f} ×"
    if name not in rows:
        why = next((left["reason"] for left in case["skipped"] if left["arm"] == name), "this version has no such arm")
        return [aim, "–", "–", "–", "–", f"not measured: {why}"]
    row = rows[name]
    found = verdict(target, row, rows, all_cycles)
    if "LASER" in name and row["codecs"] and not any(codec.startswith("lowrank") for codec in row["codecs"]):
        found += "; the plan keeps no value in low rank"
    return [aim, *_figures(row), f"{row['worst_gradient_error']:.1e}", f"{row['worst_cosine']:.6f}", found]


def _figures(row: Recorded) -> list[str]:
    return [f"{100 * row['held_of_eager']:.1f} %", f"{row['time_of_eager']:.3f} ×"]


def _arms(recorded: Recorded) -> str:
    return "\n\n".join(f"### {case['title']}\n\n" + _case(case) for case in recorded["cases"])


def _case(case: Recorded) -> str:
    lines = [
        [
            row["arm"],
            f"{100 * row['held_of_eager']:.1f} %",
            f"{100 * row['peak_of_eager']:.1f} %",
            f"{row['time_of_eager']:.3f} ×",
            f"{row['worst_gradient_error']:.1e}",
            f"{row['worst_cosine']:.6f}",
            "bitwise" if row["forward_error"] == 0 else f"{row['forward_error']:.1e}",
        ]
        for row in sorted(case["rows"], key=lambda row: (row["engine"], row["ours"], -row["held_of_eager"]))
    ]
    eager = next(row for row in case["rows"] if row["arm"] == "eager")
    note = (
        f"Eager holds {eager['held_bytes'] / 1e6:.1f} MB, peaks at {eager['peak_bytes'] / 1e6:.1f} MB and takes "
        f"{eager['seconds']:.2f} s; {case['repeats']} rounds, load {case['load_average'][0]:.1f} at the start and "
        f"{case['load_average'][1]:.1f} at the end."
    )
    left = _skipped(case)
    table = _table(("arm", "held", "peak", "time", "gradient error", "cosine", "forward"), lines)
    return f"{note}{left}\n\n{table}"


def _skipped(part: Recorded) -> str:
    """The arms that did not run, by the reason."""
    arms: dict[str, list[str]] = {}
    for each in part["skipped"]:
        arms.setdefault(each["reason"], []).append(each["arm"])
    return "".join(f" Not run ({reason}): {'; '.join(names)}." for reason, names in arms.items())


def _against(recorded: Recorded) -> str:
    lines = []
    for case in recorded["cases"]:
        for row in (row for row in case["rows"] if row["ours"]):
            peer = best_peer(row, case["rows"])
            own = [case["title"], row["arm"], ", ".join(_figures(row))]
            if peer is None:
                lines.append([*own, "none keeps as little", "ahead"])
            else:
                gap = row["time_of_eager"] - peer["time_of_eager"]
                place = "level" if abs(gap) < 5e-4 else f"{'ahead' if gap < 0 else 'behind'} by {abs(gap):.3f} ×"
                lines.append([*own, f"{peer['arm']}: {', '.join(_figures(peer))}", place])
    return _table(("case", "ours", "held, time", "fastest peer that holds no more", "ours is"), lines)


def _depth(recorded: Recorded) -> str:
    found = recorded["depth"]
    lines = [
        [
            row["arm"],
            f"{row['bytes_per_call'] / 1e6:.3f} MB",
            f"{100 * row['residual']:.2f} %",
            f"{row['largest']:,}",
            "; ".join(
                f"{check['block_calls']:,.0f} calls: {check['bytes'] / 1e9:.3f} GB, "
                f"predicted {check['predicted_bytes'] / 1e9:.3f}"
                for check in row["checks"]
            )
            or "–",
        ]
        for row in found["rows"]
    ]
    left = _skipped(found)
    table = _table(("arm", "bytes a block call", "residual", "block calls in 4 GB", "run at another depth"), lines)
    return f"{found['title']}.{left}\n\n{table}"


def _left_out(recorded: Recorded) -> str:
    there = {case["case"] for case in recorded["cases"]}
    absent = [f"{case.title}: no run is recorded" for case in CASES if case.name not in there]
    return "\n".join(f"- {line}" for line in (*absent, *recorded["not_measured"])) or "Nothing."


def _conditions(recorded: Recorded) -> str:
    case = recorded["cases"][0]
    versions = ", ".join(f"{name} {value}" for name, value in case["environment"].items())
    return f"`{case['command']}`; {case['processor']}, {case['threads']} thread; {versions}."


BLOCKS: dict[str, Callable[[Recorded], str]] = {
    "targets": _targets,
    "against": _against,
    "depth": _depth,
    "arms": _arms,
    "not-measured": _left_out,
    "conditions": _conditions,
}


def main() -> None:
    from benchmarks.training.picture import draw

    recorded = json.loads(RESULT.read_text(encoding="utf-8"))
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), recorded), overwrite=True)
    draw(recorded, PICTURE)


if __name__ == "__main__":
    main()
