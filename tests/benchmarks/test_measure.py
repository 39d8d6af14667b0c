"""Rows say what the arms did."""

from __future__ import annotations

import json
from dataclasses import replace

import torch

from benchmarks.training import depth
from benchmarks.training.arms import EAGER, Arm, Missing, arm
from benchmarks.training.cases import QUICK
from benchmarks.training.measure import measure

TINY = replace(
    QUICK[1],
    config=replace(QUICK[1].config, seq_len=16, hidden_size=64, H_cycles=2, L_cycles=2),
    batch=2,
    repeats=3,
)


def test_a_case_measures_its_arms_in_turns_and_says_what_is_missing() -> None:
    def halved(model: torch.nn.Module, *inputs: object) -> torch.nn.Module:
        with torch.no_grad():
            model.inner.lm_head.weight.mul_(0.5)  # type: ignore[union-attr, operator]
        return model

    def missing(model: torch.nn.Module, *inputs: object) -> torch.nn.Module:
        raise Missing("not today")

    turns: list[str] = []
    arms = [EAGER, arm("checkpoint per block"), Arm("halved", "halved", halved), Arm("gone", "gone", missing)]
    found = measure(TINY, arms, turns.append)
    rows = {row["arm"]: row for row in found["rows"]}
    assert found["skipped"] == [{"arm": "gone", "reason": "not today"}]
    assert list(rows) == ["eager", "checkpoint per block", "halved"]
    assert [turn.split(": ")[1] for turn in turns if turn.startswith("round")] == [*rows, *list(rows)[::-1], *rows]
    assert all(len(row["cpu_seconds"]) == len(row["wall_seconds"]) == 3 for row in rows.values())
    eager, block, wrong = rows.values()
    assert eager["held_of_eager"] == eager["time_of_eager"] == 1.0
    assert eager["worst_gradient_error"] == eager["forward_error"] == 0.0
    assert block["held_bytes"] < 0.3 * eager["held_bytes"]
    assert block["peak_bytes"] < eager["peak_bytes"]
    assert block["worst_gradient_error"] == 0.0
    assert abs(wrong["forward_error"] - 0.5) < 1e-6
    assert wrong["worst_gradient_error"] > 0.1
    json.dumps(found)


def test_the_peak_of_a_deep_model_is_a_line_in_its_depth() -> None:
    row = depth._row(TINY, arm("checkpoint per net call"), {})
    assert row.residual < 0.01
    assert row.bytes_per_call > 0
    assert row.bytes_per_call * row.largest + row.bytes_at_zero <= depth.LIMIT
    calls_per_cycle = depth._calls(TINY, 1)
    assert row.bytes_per_call * (row.largest + calls_per_cycle) + row.bytes_at_zero > depth.LIMIT


def test_a_deep_model_is_supervised_after_every_step() -> None:
    model = depth.Supervised(TINY.model(), 4)
    assert model(torch.ones(2, 16, dtype=torch.int64)).shape == (2, 2, 16, TINY.config.vocab_size)
