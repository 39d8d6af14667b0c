"""The page on dynamics says what its figures say."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

import laser_fx
from benchmarks.dynamics.measure import STEPS, _sites, by_puzzle
from benchmarks.dynamics.page import page, radius
from benchmarks.dynamics.publish import FIGURES, PAGE, PICTURE
from laser_fx.options import Options
from laser_fx.zoo.trm import Solve
from tests.small import Contractive, small_trm, trm_batch


@pytest.fixture(scope="module")
def figures() -> Any:
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def test_the_page_is_written_from_its_figures(figures: Any) -> None:
    assert PAGE.read_text(encoding="utf-8") == page(figures), "run python -m benchmarks.dynamics.publish"
    assert PICTURE.exists()


def test_trained_and_untrained_were_measured_alike(figures: Any) -> None:
    for model in figures["models"].values():
        totals = dict(model["nest"])
        for arm in (model["trained"], model["untrained"]):
            assert [loop["loop"] for loop in arm["loops"]] == list(totals)
            assert all(loop["steps"][-1]["step"] == totals[loop["loop"]] - 1 for loop in arm["loops"])
            assert len(arm["puzzles"]) == model["rows"]
            assert all(len(puzzle["change"]) == model["steps"] for puzzle in arm["puzzles"])
    assert figures["cpu_seconds"] < 240


@pytest.mark.parametrize(
    ("value", "residual", "said"),
    [(0.5, 1e-3, "contracts (ρ 0.50)"), (1.5, 1e-3, "expands (ρ 1.50)"), (0.98, 0.1, "is undecided (ρ 0.98)")],
)
def test_a_verdict_needs_a_residual_that_allows_it(figures: Any, value: float, residual: float, said: str) -> None:
    changed = copy.deepcopy(figures)
    step = changed["models"]["sudoku"]["trained"]["loops"][0]["steps"][-1]
    step["eigenvalues"], step["residuals"] = [[0.0, value]], [residual]
    assert radius(step) == value
    assert f"loop_0 {said}" in page(changed)


def test_puzzles_are_followed_step_by_step() -> None:
    model, batch = Solve(small_trm(), STEPS).eval(), trm_batch(3)
    with torch.no_grad():
        batch["labels"] = model(batch["inputs"]).argmax(-1)
        batch["labels"][1] += 1
    found = by_puzzle(model, batch)
    assert [puzzle["solved"] for puzzle in found] == [True, False, True]
    assert all(len(puzzle["change"]) == STEPS for puzzle in found)


def test_sites_are_summed_up_by_loop_and_step() -> None:
    compiled = laser_fx.compile(Contractive().eval(), (torch.randn(5, 32),), options=Options.exact())
    (loop,) = _sites(compiled.program)
    assert (loop["loop"], loop["sites"], len(loop["steps"])) == ("loop_0", 2, 6)
    assert all(0 < step["rank_share"] <= 1 for step in loop["steps"])
    assert loop["steps"][0]["drift"] is None
