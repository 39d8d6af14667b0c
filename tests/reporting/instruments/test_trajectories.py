from __future__ import annotations

import copy
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.calibration import Calibration
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options
from laser_fx.reporting.instruments import trajectories
from laser_fx.reporting.instruments.trajectories import measure_trajectories
from laser_fx.reporting.measured import CarryTrajectory, TrajectoryStep
from tests.small import Contractive, Counting


def states(module: Any, x: Tensor, trips: int) -> list[Tensor]:
    """The state before the first step and after each one."""
    made = [torch.zeros_like(x)]
    for _ in range(trips):
        made.append(x + module.down(torch.nn.functional.silu(module.up(made[-1] + x))))
    return made


def error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@torch.no_grad()
def test_changes_are_those_of_the_written_loop(contractive: CompiledModel) -> None:
    program = contractive.program
    (found,) = measure_trajectories(program)
    made = states(program.model, program.example_inputs[0], 6)
    assert found.steps[0] == TrajectoryStep(0, None)  # from zero
    for number, step in enumerate(found.steps):
        assert (step.step, step.cosine, step.error) == (number, None, None)
        if number:
            assert step.change == pytest.approx(error(made[number + 1], made[number]), rel=1e-5)


def test_every_floating_carry_of_every_loop_has_one(trm: CompiledModel) -> None:
    found = measure_trajectories(trm.program)
    assert [(t.loop, t.carry) for t in found] == [(lp.name, c) for lp in trm.loops.walk() for c in lp.carry]
    for trajectory in found:
        assert len(trajectory.steps) == prod(trm.loops.trips_around(trajectory.loop))


def test_an_integer_carry_is_left_out() -> None:
    compiled = laser_fx.compile(Counting().eval(), (torch.randn(3, 32),), options=Options.exact())
    assert len(compiled.loops.loops[0].carry) == 2
    (found,) = measure_trajectories(compiled.program)
    assert "float32" in found.carry


def test_a_tracked_program_is_compared_with_the_exact_one() -> None:
    x = torch.randn(40, 32)
    module = Contractive().eval()
    compiled = laser_fx.compile(module, (x,), options=Options(rank=24, fidelity=0.5, sites="all"))
    assert compiled.program.graph_module is not compiled.program.rolled
    (found,) = measure_trajectories(compiled.program)
    with torch.no_grad():
        exact, mine = states(module, x, 6)[-1], compiled(x)
    last = found.steps[-1]
    assert last.error == pytest.approx(error(mine, exact), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(mine.double().flatten(), exact.double().flatten(), dim=0)
    assert last.cosine == pytest.approx(float(cosine), rel=1e-6)
    assert last.error is not None
    assert 0 < last.error < 0.9


@pytest.fixture(scope="module")
def calibrated() -> tuple[nn.Module, Tensor, Calibration]:
    torch.manual_seed(1)
    module = Contractive().eval()
    directions = torch.randn(4, 32)
    data = [torch.randn(12, 4) @ directions for _ in range(6)]
    return module, data[0], laser_fx.calibrate(module, data, tolerance=0.4, objectives=("activation",), sites="all")


@pytest.mark.parametrize("schedule", [None, (0.5, 1.0, "exact")])
def test_frozen_bases_are_followed_over_the_pieces_of_a_split_loop(
    schedule: Any, calibrated: tuple[nn.Module, Tensor, Calibration]
) -> None:
    module, x, calibration = calibrated
    options = Options(basis="frozen", rank_schedule=schedule)
    compiled = laser_fx.compile(module, (x,), options=options, calibration=calibration)
    assert (compiled.program.unsplit is None) == (schedule is None)
    (found,) = measure_trajectories(compiled.program)
    assert [step.step for step in found.steps] == list(range(6))
    assert all(step.error is not None for step in found.steps)
    with torch.no_grad():
        assert found.steps[-1].error == pytest.approx(error(compiled(x), module(x)), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_compared_with_float32_of_the_same_weights(dtype: torch.dtype) -> None:
    module, x = Contractive().eval().to(dtype), torch.randn(5, 32).to(dtype)
    compiled = laser_fx.compile(module, (x,), options=Options.exact())
    (found,) = measure_trajectories(compiled.program)
    with torch.no_grad():
        off = error(module(x), copy.deepcopy(module).float()(x.float()))
    assert found.steps[-1].error == pytest.approx(off, rel=1e-3)
    assert off > 0


def test_exact_carries_that_do_not_fit_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trajectories, "_HELD_BYTES", 1)
    x = torch.randn(40, 32)
    compiled = laser_fx.compile(Contractive().eval(), (x,), options=Options(rank=24, fidelity=0.5, sites="all"))
    (found,) = measure_trajectories(compiled.program)
    assert [step.step for step in found.steps if step.error is not None] == [0, 5]
    assert all(step.change is not None for step in found.steps[1:])


def test_convergence_is_told_by_the_number_of_the_step() -> None:
    moved = ((0, 0.5), (40, 0.005), (80, 0.02), (120, 0.001), (160, 0.002))
    assert CarryTrajectory("loop_0", "z", tuple(TrajectoryStep(*step) for step in moved)).converged_at == 120
