"""The outermost state, step by step."""

from __future__ import annotations

import torch

from laser_fx.calibrator.carry import compared, trajectory
from laser_fx.passes.split_loops import split_loops
from tests.small import Contractive, exact


def test_a_trajectory_is_what_the_loop_carries_after_every_step_split_or_not() -> None:
    model, x = Contractive(), torch.randn(5, 32)
    program = exact(model, x).program
    whole = trajectory(program.rolled, program.arguments(program.rolled, (x,)))
    with torch.no_grad():
        for trips, state in enumerate(whole, start=1):
            model.trips = trips
            torch.testing.assert_close(state.float(), model(x).reshape(-1))
    split = split_loops(program.rolled, program.nest, {"loop_0": (0, 2)}).graph_module
    parts = trajectory(split, program.arguments(split, (x,)))
    assert len(parts) == len(whole) == 6
    assert all(torch.equal(a, b) for a, b in zip(parts, whole, strict=True))


def test_equal_states_have_no_error_and_nothing_is_like_nothing() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    same, lost, nothing = compared([one, zero, zero], [one, one, zero])
    assert (same.cosine, same.error) == (1.0, 0.0)
    assert (lost.error, nothing.error) == (1.0, 0.0)
