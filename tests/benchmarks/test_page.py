"""The page says what the recorded run measured."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from benchmarks.training.page import BLOCKS, PAGE, RESULT, filled
from benchmarks.training.pareto import best_peer, front
from benchmarks.training.targets import TARGETS, verdict


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    return result


def test_the_tables_of_the_page_are_those_of_the_record(recorded: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert filled(text, recorded) == text


def test_a_figure_that_changes_changes_the_page(recorded: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    other = copy.deepcopy(recorded)
    other["cases"][0]["rows"][1]["time_of_eager"] += 1
    assert filled(text, other) != text


def test_a_page_without_a_place_for_a_table_is_refused(recorded: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="targets"):
        filled("", recorded)
    assert "targets" in BLOCKS


def test_the_record_holds_together(recorded: dict[str, Any]) -> None:
    assert recorded["cases"]
    for case in recorded["cases"]:
        rows = {row["arm"]: row for row in case["rows"]}
        assert rows["eager"]["worst_gradient_error"] == 0.0
        assert all(len(row["cpu_seconds"]) == case["repeats"] for row in rows.values())
        for row in rows.values():
            assert row["held_of_eager"] == row["held_bytes"] / rows["eager"]["held_bytes"]
            assert row["peak_bytes"] >= row["held_bytes"]
            assert not row["exact"] or row["worst_gradient_error"] < 1e-5


def row(held: float, time: float, **changes: Any) -> dict[str, Any]:
    base = {"ours": False, "engine": "eager", "exact": True, "worst_gradient_error": 0.0, "worst_cosine": 1.0}
    return {"held_of_eager": held, "time_of_eager": time, **base, **changes}


def test_a_peer_counts_against_us_where_it_holds_no_more_on_the_same_engine() -> None:
    ours = row(0.3, 1.1, ours=True)
    slow, fast = row(0.2, 1.4), row(0.3, 1.2)
    others = [row(0.31, 0.9), row(0.1, 0.8, engine="inductor"), row(0.1, 0.7, exact=False), row(0.1, 0.6, ours=True)]
    assert best_peer(ours, [ours, slow, fast, *others]) is fast
    assert best_peer(ours, [ours, *others]) is None


def test_the_front_leaves_out_what_is_beaten() -> None:
    best, beaten, cheap = row(0.3, 1.1), row(0.4, 1.2), row(0.1, 1.3)
    assert front([best, beaten, cheap]) == [cheap, best]


def test_a_verdict_names_every_miss() -> None:
    small = next(target for target in TARGETS if target.plan == "0.05")
    block = {"checkpoint per block": row(0.04, 1.25)}
    assert verdict(small, row(0.05, 1.2), block, all_cycles=False) == "met"
    assert verdict(small, row(0.05, 1.25), block, all_cycles=True).startswith("missed: not below checkpoint per block")
    missed = verdict(small, row(0.06, 1.3, worst_gradient_error=1e-3), block, all_cycles=False)
    assert all(word in missed for word in ("1.0 points of bytes", "0.100 × of time", "1.0e-03", "not below"))
    laser = next(target for target in TARGETS if target.cosine == 0.999)
    assert verdict(laser, row(0.3, 1.0, worst_gradient_error=0.1, worst_cosine=0.9991), {}, all_cycles=False) == "met"
    assert "cosine" in verdict(laser, row(0.3, 1.0, worst_cosine=0.9), {}, all_cycles=False)
