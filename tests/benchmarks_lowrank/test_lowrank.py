"""The page, the picture and the statistics of the study of low rank at inference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks.accuracy.records import load
from benchmarks.lowrank import __main__ as command
from benchmarks.lowrank.figure import draw
from benchmarks.lowrank.page import page
from benchmarks.lowrank.points import CHOICES, points
from benchmarks.lowrank.publish import FIGURES, PAGE, PICTURE, aggregate
from benchmarks.lowrank.statistics import compared


def record(**changes: Any) -> dict[str, Any]:
    made = {
        "model": "sudoku",
        "choice": "answer",
        "share": 0.45,
        "steps": 4,
        "calibrated_at": 4,
        "flops_share": 0.449,
        "puzzles": 1000,
        "exact": 990,
        "solved": 988,
        "lost": 5,
        "gained": 3,
        "ranks": {"loop_0:up": 3},
        "cpu_seconds": 1.0,
        "environment": {"torch": "2"},
    }
    return {**made, **changes}


def test_equivalence_is_tested_on_the_pairs() -> None:
    found = compared(record())
    pairs = np.array([-1.0] * 5 + [1.0] * 3 + [0.0] * 992)
    error = pairs.std(ddof=1) / math.sqrt(1000)
    low = stats.t.sf((pairs.mean() + 0.01) / error, 999)
    high = stats.t.cdf((pairs.mean() - 0.01) / error, 999)
    assert found["tost"] == pytest.approx(max(low, high), rel=1e-6)
    assert found["difference"] == pytest.approx(-0.002)
    assert found["equivalent"]
    assert not compared(record(lost=15, gained=0, solved=975))["equivalent"]


def test_equal_answers_are_equivalent() -> None:
    found = compared(record(lost=0, gained=0, solved=990))
    assert (found["tost"], found["equivalent"], found["difference_interval_90"]) == (0.0, True, [0.0, 0.0])


def test_every_choice_is_asked_for_the_goal_first_and_no_point_twice() -> None:
    found = list(points())
    assert len(set(found)) == len(found)
    assert {p.choice for p in found[: 2 * len(CHOICES)]} == set(CHOICES)
    assert {p.share for p in found[: 2 * len(CHOICES)]} == {0.45}


def test_a_point_with_a_record_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(point: Any) -> dict[str, Any]:
        asked.append(point)
        return record(model=point.model, choice=point.choice, share=point.share, steps=point.steps or 8)

    monkeypatch.setattr(command, "measure", measured)
    arguments = ["--records", str(tmp_path / "runs.jsonl"), "--no-report"]
    command.main([*arguments, "--models", "sudoku"])
    command.main(arguments)
    assert asked == [*(p for p in points() if p.model == "sudoku"), *(p for p in points() if p.model == "attention")]
    command.main([*arguments, "--minutes", "0"])
    assert len(load(tmp_path / "runs.jsonl")) == len(asked)


def test_the_page_says_whether_the_goal_is_met(tmp_path: Path) -> None:
    figures = aggregate([record(), record(choice="output", flops_share=0.45, lost=60, gained=0, solved=930)])
    text = page(json.loads(json.dumps(figures)))
    assert "`sudoku`: met. *answer* takes 0.45 ×" in text
    assert "*output* 93.00 %, not equivalent" in text
    assert "`attention`: not measured" in text
    missed = page(aggregate([record(flops_share=0.6)]))
    assert "`sudoku`: missed. *answer* takes 0.60 ×" in missed
    draw(figures, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_page_is_what_the_figures_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(FIGURES.read_text(encoding="utf-8")))
    assert PICTURE.exists()


def test_the_figures_are_what_the_records_say() -> None:
    figures = json.loads(json.dumps(aggregate(load(command.RECORDS))))
    committed = json.loads(FIGURES.read_text(encoding="utf-8"))
    for model, found in figures["models"].items():
        for mine, theirs in zip(found, committed["models"][model], strict=True):
            # Quantiles of t differ in the last digits from one version of scipy to another.
            numbers = ("tost", "difference_interval_90", "interval_95")
            assert {k: v for k, v in mine.items() if k not in numbers} == {
                k: v for k, v in theirs.items() if k not in numbers
            }
            assert all(mine[k] == pytest.approx(theirs[k], abs=1e-9) for k in numbers)
