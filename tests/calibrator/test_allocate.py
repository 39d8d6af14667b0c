"""Ranks by what they cost and what they save."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import laser_fx
from laser_fx.calibration import Calibration
from laser_fx.calibrator.allocate import Costs, allocate
from laser_fx.calibrator.directions import Directions
from laser_fx.loops import Loop, LoopNest, Site
from laser_fx.memory.measure import flops
from tests.passes.test_freeze import puzzles, solve
from tests.small import exact

NEST = LoopNest((Loop("loop_0", 4, children=(Loop("loop_0_0", 3),)),))


def site(name: str, outputs: int = 8, rows: int = 10) -> Site:
    return Site(name, "loop_0_0", f"{name}.weight", rows, 8, outputs, steps=12)


def choice(tails: list[float]) -> Directions:
    width = len(tails) - 1
    return Directions("output", torch.eye(8)[:, :width], None, None, torch.tensor(tails, dtype=torch.float64))


def test_operations_are_counted_by_step() -> None:
    costs = Costs([site("a")], NEST, (0.5, "exact"))
    assert costs.of("loop_0_0:a", None) == 2 * 10 * 12 * 64
    assert costs.of("loop_0_0:a", 3) == 2 * 10 * 3 * (3 * 2 * 16 + 64)  # half of three columns are two


def test_the_site_that_loses_least_goes_first() -> None:
    sites = [site("a"), site("b")]
    steep, flat = choice([9.0, 1e-3, 1e-4, 1e-5]), choice([9.0, 8.0, 7.0, 6.0])
    costs = Costs(sites, NEST)
    found = allocate({"loop_0_0:a": [steep], "loop_0_0:b": [flat]}, costs, 0.8)
    assert {key: basis.rank for key, basis in found.items()} == {"loop_0_0:a": 2}
    assert costs.share(found) <= 0.8


def test_the_better_choice_is_taken_and_left_sites_stay_exact() -> None:
    costs = Costs([site("a"), site("b")], NEST)
    bad, good = choice([9.0, 8.0, 7.0, 6.0]), choice([9.0, 0.2, 0.1, 0.0])
    found = allocate({"loop_0_0:a": [bad, good], "loop_0_0:b": [bad, good]}, costs, 0.9, left=["loop_0_0:b"])
    assert set(found) == {"loop_0_0:a"}
    assert torch.equal(found["loop_0_0:a"].basis, good.basis[:, : found["loop_0_0:a"].rank])


def test_ranks_that_do_not_pay_are_not_taken() -> None:
    costs, one = Costs([site("a"), site("b")], NEST), choice([9.0, 1e-3, 1e-4, 1e-5])
    both = {"loop_0_0:a": [one], "loop_0_0:b": [one]}
    assert {key: basis.rank for key, basis in allocate(both, costs, 0.0).items()} == dict.fromkeys(both, 1)
    found = allocate(both, costs, 0.0, pays=lambda site, rank: site.name == "a" and rank >= 2)
    assert {key: basis.rank for key, basis in found.items()} == {"loop_0_0:a": 2}


@pytest.mark.parametrize("schedule", [None, (0.5, 1.0, "exact")])
def test_counted_operations_are_those_of_the_graph(schedule: Any) -> None:
    model = solve(4)
    program = exact(model, puzzles()).program
    found = {s.key: choice_of(s.outputs).site_basis(3) for s in program.sites if 3 * (s.features + s.outputs) < 160}
    costs = Costs(program.sites, program.nest, schedule)
    calibration = Calibration(found, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 0, (), schedule)
    options = laser_fx.Options(basis="frozen", measure=False)
    made = laser_fx.compile(model, (puzzles(),), options=options, calibration=calibration).program
    count = [flops(lambda p=p: p.run_graph(p.graph_module, p.example_inputs)) for p in (program, made)]
    ranks = {site.key: site.rank for site in made.sites if site.rank}
    folding = sum(
        2 * rank * s.features * s.outputs for s in made.sites if (rank := ranks.get(s.key)) and s.key in ranks
    )
    counted = sum(costs.of(key, found[key].rank if key in found else None) for key in costs.sites)
    assert count[1] - folding - count[0] == counted - costs.exact


def choice_of(outputs: int) -> Directions:
    return Directions("output", torch.eye(outputs)[:, :4], None, None, torch.zeros(5, dtype=torch.float64))
