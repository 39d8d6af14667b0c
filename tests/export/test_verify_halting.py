"""Which steps a file may take, beside the program's own, and what it answers then."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch

from laser_fx.errors import VerificationError
from laser_fx.export.metadata import FileMetadata, Halt
from laser_fx.export.trajectory import Trajectory
from laser_fx.export.verify_halting import AT_ONCE, NOT_AT_ALL, HaltingAnswers, same_steps
from tests.export.conftest import MAKERS, HandMade
from tests.export.halting_programs import halting, inputs_for

Per = Literal["batch", "example"]


def told(per: Per, least: int = 1) -> FileMetadata:
    return FileMetadata(
        form="rolled",
        inputs=("x", "speed"),
        outputs=(("y", "y"), ("halt_logits", "q"), ("extra", "extra"), ("first", "first")),
        loops=({"name": "loop_0", "level": 0, "trips": 6},),
        halt=Halt("halt_logits", per, "halt_above", 0.0, "steps_taken", least),
    )


def arguments_of(program: HandMade) -> list[Any]:
    values = {**program.weights, **dict(zip(program.user_inputs, program.example_inputs, strict=True))}
    return [values[p.name] for p in program.graph_module.graph.find_nodes(op="placeholder")]


def says(per: Per, *steps: int, above: float = 0.0, trips: int | None = None) -> HaltingAnswers:
    program = halting(steps=steps)
    return HaltingAnswers(program.graph_module, arguments_of(program), told(per), trips, above)


@pytest.mark.parametrize("name", ["one_loop", "nested", "two_loops"])
def test_a_trajectory_ends_as_a_loop_of_fewer_steps_does(name: str) -> None:
    program = MAKERS[name]()
    trajectory = Trajectory(program.graph_module, arguments_of(program), "loop_0", 4)
    assert trajectory.steps == 4
    for steps in range(1, 5):
        module = program.graph_module
        loop = module.loop_0
        module.loop_0 = loop.changed(trip_count=steps)
        expected = program.run(*program.example_inputs)
        module.loop_0 = loop
        torch.testing.assert_close(trajectory.after(steps), expected, atol=0, rtol=0)


def test_values_that_differ_by_step_are_those_of_the_step() -> None:
    program = MAKERS["per_step"]()
    trajectory = Trajectory(program.graph_module, arguments_of(program), "loop_0", None)
    expected = program.run(*program.example_inputs)
    torch.testing.assert_close(trajectory.after(3), expected, atol=0, rtol=0)
    assert trajectory.after(2)[1] == expected[1] - 1


@pytest.mark.parametrize(("per", "own"), [("batch", 4), ("example", [2, 4, 3])])
def test_the_program_halts_by_its_own_logits(per: Per, own: Any) -> None:
    answers = says(per, 2, 4, 3).own()
    assert answers["steps_taken"].tolist() == own
    last = halting(trips=4).run(*inputs_for(2, 4, 3))[0]
    np.testing.assert_array_equal(answers["y"][1], last[1].numpy())
    assert np.array_equal(answers["y"][0], last[0].numpy()) == (per == "batch")


@pytest.mark.parametrize(("above", "trips", "own"), [(AT_ONCE, None, 1), (NOT_AT_ALL, None, 6), (0.0, 3, 3)])
def test_it_halts_at_once_or_at_the_end_where_told(above: float, trips: int | None, own: int) -> None:
    assert int(says("batch", 2, 4, above=above, trips=trips).own()["steps_taken"]) == own


@pytest.mark.parametrize("steps", [[1, 4, 3], [3, 4, 3], [2, 4, 6]])
def test_a_row_that_halts_elsewhere_is_named(steps: list[int]) -> None:
    answers = says("example", 2, 4, 3)
    answers.check(np.array([2, 4, 3]), 0.01, "here")
    row = next(row for row, (step, own) in enumerate(zip(steps, (2, 4, 3), strict=True)) if step != own)
    with pytest.raises(VerificationError, match=f"example {row} halts after step {steps[row]}"):
        answers.check(np.array(steps), 0.01, "here")


def test_a_batch_that_halts_elsewhere_is_told() -> None:
    answers = says("batch", 2, 4, 3)
    answers.check(np.array(4), 0.01, "here")
    for steps in (3, 5, 6):
        with pytest.raises(VerificationError, match=f"halts after step {steps}"):
            answers.check(np.array(steps), 0.01, "here")


def test_a_logit_at_the_threshold_may_be_on_either_side() -> None:
    above = float(says("batch", 2, 4, 3).logits[3, 1]) + 1e-6  # the slowest row at its fourth step: just not done
    answers = says("batch", 2, 4, 3, above=above)
    assert int(answers.own()["steps_taken"]) == 5
    for steps in (4, 5):
        answers.check(np.array(steps), 1e-5, "here")
    with pytest.raises(VerificationError):
        answers.check(np.array(4), 1e-7, "here")


@pytest.mark.parametrize("steps", [0, 7, -1])
def test_steps_that_there_are_not(steps: int) -> None:
    with pytest.raises(VerificationError, match="not from 1 to 6"):
        says("batch", 2).at(np.array(steps))


def test_rows_part_at_some_logit() -> None:
    for per, most in (("example", 3), ("batch", 1)):
        answers = says(per, 2, 4, 3)  # type: ignore[arg-type]
        above = answers.parting(1e-4)
        assert above is not None
        parted = says(per, 2, 4, 3, above=above).own()["steps_taken"]  # type: ignore[arg-type]
        assert len(np.unique(parted)) == most
        assert parted.min() < 6


def test_logits_that_never_differ_part_nothing() -> None:
    answers = says("example", 2, 4, 3)
    answers.logits = np.full_like(answers.logits, -5.0)  # a head that was never trained
    assert answers.parting(1e-4) is None


def run(steps: Any, logits: list[Any]) -> dict[str, Any]:
    return {"steps_taken": np.array(steps), "q": np.array(logits)}


def test_two_runs_of_a_file_take_the_same_steps() -> None:
    rows, batch = told("example"), told("batch")
    assert same_steps(run([2, 3], [1.0, 1.0]), run([2, 3], [1.0, 1.0]), rows, 0.0, 1e-4, "here")
    assert not same_steps(run([2, 3], [1e-5, 1.0]), run([4, 3], [1.0, 1.0]), rows, 0.0, 1e-4, "here")
    assert not same_steps(run(3, [2.0, 1.0]), run(2, [2.0, 1e-5]), batch, 0.0, 1e-4, "here")


@pytest.mark.parametrize(
    ("per", "expected", "actual"),
    [
        ("example", run([2, 3], [0.5, 1e-5]), run([4, 3], [1.0, 1e-5])),
        ("batch", run(3, [2.0, 1e-5]), run(2, [2.0, 1.0])),
        ("example", run([2, 3], [True, True]), run([1, 3], [True, True])),
    ],
)
def test_other_steps_without_a_logit_at_the_threshold_are_wrong(per: Per, expected: Any, actual: Any) -> None:
    with pytest.raises(VerificationError, match="the file halts after"):
        same_steps(expected, actual, told(per), 0.0, 1e-4, "here")
