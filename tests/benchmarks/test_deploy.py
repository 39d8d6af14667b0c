"""The page of deployment figures says what was recorded, and the harness measures what it says."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks.deploy import child
from benchmarks.deploy.cases import QUICK, Size
from benchmarks.deploy.clock import interleaved
from benchmarks.deploy.early_exit import Counting, line
from benchmarks.deploy.files import Files, count_nodes
from benchmarks.deploy.low_rank import rank_at
from benchmarks.deploy.page import page
from benchmarks.deploy.publish import FIGURES, PAGE, PICTURE
from benchmarks.deploy.records import Missing, Records
from benchmarks.deploy.sessions import answer, session
from benchmarks.deploy.targets import verdicts
from laser_fx.loops import Site

SMALL = Size(32, 9, (2, 2))


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return result


def test_the_page_is_what_the_figures_say(recorded: dict[str, Any]) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(recorded)
    assert PICTURE.stat().st_size > 10_000


def test_a_figure_that_changes_changes_the_page(recorded: dict[str, Any]) -> None:
    other = copy.deepcopy(recorded)
    cell = next(cell for cell in other["parts"]["latency"].values() if cell.get("rows"))
    cell["rows"][0]["of_eager"] += 1
    assert page(other) != page(recorded)


def test_every_aim_stands_on_the_page(recorded: dict[str, Any]) -> None:
    found = verdicts(recorded)
    text = PAGE.read_text(encoding="utf-8")
    assert all(verdict.aim in text and verdict.found in text for verdict in found)
    assert all(verdict.why for verdict in found if verdict.met is False)


def test_the_record_holds_together(recorded: dict[str, Any]) -> None:
    moved = {row["steps"]: row["difference"] for row in recorded["parts"]["rounding"].values()}
    for cell in (cell for cell in recorded["parts"]["latency"].values() if cell.get("rows")):
        rows = {row["arm"]: row for row in cell["rows"]}
        most = max(1e-3, moved[cell["steps"]])  # what one rounding of every weight makes of eager's own answer
        eager = rows["torch eager"]
        assert eager["difference"] == 0.0
        for row in rows.values():
            assert row["seconds"] == statistics.median(row["cpu_seconds"])
            pairs = zip(row["cpu_seconds"], eager["cpu_seconds"], strict=True)
            assert row["of_eager"] == pytest.approx(statistics.median(a / b for a, b in pairs))
            assert not row["exact"] or row["difference"] < most


def export_row(how: str, steps: int, seconds: float, **changes: Any) -> dict[str, Any]:
    base = {"size": "256x81", "title": "D = 256", "steps": steps, "how": how, "nodes": 250, "bytes": 1005}
    return {**base, "weights": 1000, "seconds": seconds, "compile_seconds": seconds / 2, **changes}


def aims(**parts: list[dict[str, Any]]) -> dict[str, Any]:
    tables = {name: dict(enumerate(rows)) for name, rows in parts.items()}
    return {verdict.aim: verdict for verdict in verdicts({"gpu": "none", "parts": tables})}


def test_an_aim_is_met_or_missed_by_the_figures() -> None:
    loops = [export_row("loop", 16, 9.0), export_row("loop", 1024, 9.5)]
    export = [*loops, export_row("traced", 16, 130.0), export_row("torch", 4, 420.0)]
    found = aims(export=export)
    assert found["nodes of `rolled`"].met
    assert found["bytes of `rolled`"].met
    assert found["export time, 16 steps, steps by `laser_fx.loop`"].met
    assert found["export time, 16 steps, steps traced one by one"].met is False
    assert found["export time by depth, `laser_fx.loop`"].met
    worse = [export_row("loop", 16, 9.0), export_row("loop", 1024, 19.5, nodes=251, bytes=1011)]
    found = aims(export=worse)
    assert found["nodes of `rolled`"].met is False
    assert found["bytes of `rolled`"].met is False
    assert found["export time by depth, `laser_fx.loop`"].met is False
    assert found["early exit"].met is None


def test_a_session_has_to_load_in_a_twentieth() -> None:
    def row(form: str, seconds: float) -> dict[str, Any]:
        return {"size": "256x81", "title": "D = 256", "form": form, "load_seconds": seconds, "steps": 16}

    aim = "session load, 16 steps"
    assert aims(load=[row("rolled", 0.1), row("unrolled", 2.0)])[aim].met
    assert aims(load=[row("rolled", 0.1), row("unrolled", 1.9)])[aim].met is False


def latency_cell(rolled: float, low: float) -> dict[str, Any]:
    names = {"rolled": rolled, "unrolled": 1.0, "torch eager": 2.0, "low rank": low}
    rows = [{"arm": n, "seconds": s, "of_unrolled": s, "of_eager": s / 2, "cpu_seconds": [s]} for n, s in names.items()]
    return {"title": "D = 256", "batch": 1, "steps": 1, "rows": rows}


def test_every_cell_counts_for_latency() -> None:
    good, bad = latency_cell(1.0, 0.5), latency_cell(1.7, 1.5)
    found = aims(latency=[good])
    assert found["latency of `rolled`, of unrolled"].met
    assert found["latency of `rolled`, of torch eager"].met
    assert found["low rank at 0.45 × linear FLOPs, end to end"].met
    found = aims(latency=[good, bad])
    assert found["latency of `rolled`, of unrolled"].met is False
    assert found["latency of `rolled`, of unrolled"].why.endswith("by one call of each arm")
    assert found["latency of `rolled`, of torch eager"].met is False
    assert found["low rank at 0.45 × linear FLOPs, end to end"].met is False


def test_what_is_on_record_is_not_measured_again(tmp_path: Path) -> None:
    def refuse() -> dict[str, Any]:
        raise Missing("it cannot be")

    path = tmp_path / "runs.jsonl"
    records = Records(path)
    assert records.once("part", "a", lambda: {"x": 1}) == {"x": 1}
    assert records.once("part", "b", refuse) == {"missing": "it cannot be"}
    again = Records(path, keep=True)
    assert again.once("part", "a", lambda: {"x": 2}) == {"x": 1}
    assert again.once("part", "b", lambda: {"x": 3}) == {"missing": "it cannot be"}
    assert Records(path).part("part") == {}


def test_arms_take_turns() -> None:
    calls: list[str] = []
    spent = interleaved({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=2)  # type: ignore[misc]
    assert "".join(calls) == "abc" + "abc" + "cba"
    assert {name: len(values) for name, values in spent.items()} == dict.fromkeys("abc", 2)


def test_a_round_is_not_begun_when_the_time_is_up() -> None:
    spent = interleaved({"a": lambda: None}, rounds=50, seconds=0.0, least=4)
    assert len(spent["a"]) == 4


def test_a_constant_cost_is_no_proportion() -> None:
    found = line([(1, 2.0), (2, 3.0), (4, 5.0)])
    assert found["slope"] == pytest.approx(1.0)
    assert found["intercept"] == pytest.approx(1.0)
    assert found["deviation"] > 0.2


def test_the_looped_solve_is_the_solve() -> None:
    inputs = torch.from_numpy(SMALL.inputs(3))
    with torch.no_grad():
        assert torch.equal(SMALL.looped(3)(inputs), SMALL.solve(3)(inputs))
        counted = Counting(SMALL.trm(), 3)(inputs)
        assert torch.equal(counted["logits"], SMALL.solve(3)(inputs))
    assert counted["halt"].tolist() == [3.0] * 3


def test_files_of_all_forms_answer_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, inputs = Files(tmp_path), SMALL.inputs(2)
    rolled, written = files.rolled(SMALL, 2), files.unrolled(SMALL, 2)
    with torch.no_grad():
        expected = SMALL.solve(2)(torch.from_numpy(inputs)).numpy()
    for file in (rolled, files.functions(SMALL, 2), written):
        # Sums in another order: float32 rounds to 6e-8, and 12 calls of the network add some up.
        assert np.abs(answer(session(file.path), inputs, 2) - expected).max() < 1e-4
    assert not onnx.load(written.path).functions
    assert written.nodes > 2 * rolled.nodes == 2 * count_nodes(onnx.load(rolled.path))
    assert files.rolled(SMALL, 2) == rolled  # not written again
    child.main(rolled.path, str(SMALL.tokens), "2")
    told = json.loads(capsys.readouterr().out)
    assert told["load"] > 0
    assert told["peak"] >= 0


def test_a_rank_keeps_its_share_of_the_flops() -> None:
    site = Site("up", "loop_0", "up.weight", 12, 256, 768, 4)
    rank = rank_at(0.45, site)
    assert 0.44 < rank * (256 + 768) / (256 * 768) <= 0.45


def test_the_quick_plan_has_more_than_one_of_each() -> None:
    assert min(len(QUICK.sizes), len(QUICK.steps), len(QUICK.batches), len(QUICK.depths)) > 1
