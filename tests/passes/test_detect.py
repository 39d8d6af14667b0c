from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_fx.passes.collapse import FoundLoop
from laser_fx.passes.detect import detect
from laser_fx.passes.normalise import Block
from laser_fx.passes.source import loop_source
from tests.nests import CASES
from tests.small import WIDTH, Parts, exact, found, looped, model, viewed


def loops(block: Block) -> list[FoundLoop]:
    return [item.loop for item in block.items if item.loop is not None]


def loops_of(name: str) -> list[FoundLoop]:
    return loops(found(model(CASES[name].forward), torch.randn(3, WIDTH))[2])


def trips(block: Block, level: int = 0) -> list[tuple[int, int]]:
    nested = [[(level, loop.trip_count), *trips(loop.body, level + 1)] for loop in loops(block)]
    return [pair for pairs in nested for pair in pairs]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("training", [False, True])
def test_the_nest(name: str, training: bool) -> None:
    wanted = CASES[name]
    _, _, block = found(model(wanted.forward).train(training), torch.randn(3, WIDTH))
    assert tuple(trips(block)) == (wanted.training_trips if training else wanted.trips)


@pytest.mark.parametrize(
    ("name", "carry", "per_step", "invariants", "outputs"),
    [
        ("one_loop", 1, 0, 1, 0),
        ("prediction_of_every_step", 1, 0, 1, 1),
        ("some_steps_are_used", 1, 0, 1, 1),
        ("row_by_step", 1, 1, 0, 0),
        ("zeros_at_first", 1, 0, 1, 0),
        ("two_back", 2, 0, 0, 0),
        ("four_states_take_turns", 4, 0, 0, 0),
        ("three_deep", 3, 0, 0, 0),
        ("output_of_every_inner_step", 2, 0, 0, 2),
    ],
)
def test_what_a_body_takes_and_gives(name: str, carry: int, per_step: int, invariants: int, outputs: int) -> None:
    (loop,) = loops_of(name)
    assert (loop.carry, loop.per_step) == (carry, per_step)
    assert loop.body.inputs == carry + per_step + invariants
    assert len(loop.body.outputs) == carry + outputs


def test_the_search_changes_nothing_that_it_was_given() -> None:
    _, view = viewed(looped(), torch.randn(3, WIDTH))
    before = list(view.block.items)
    assert len(detect(view).items) == 1
    assert list(view.block.items) == before


def test_a_shorter_repetition_than_min_trip_is_left_alone() -> None:
    _, view = viewed(looped(3), torch.randn(3, WIDTH))
    assert [trips(detect(view, at_least)) for at_least in (2, 3, 4)] == [[(0, 3)], [(0, 3)], []]


def test_a_body_begins_where_the_fewest_values_are_handed_on() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = torch.tanh(x)
        for _ in range(4):
            wide = self.a(z)
            z = torch.tanh(wide * torch.sigmoid(wide) + self.b(wide))
        return z

    (loop,) = loops(found(model(forward), torch.randn(3, WIDTH))[2])
    assert (loop.trip_count, loop.carry) == (4, 1)


class Marked(Parts):
    def shared(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.a(z) + x)

    def forward(self, x: Tensor) -> Tensor:
        z, h = x, x
        for _ in range(3):  # outer
            for _ in range(2):  # inner
                z = self.shared(z, h)
            h = torch.relu(self.b(z) + h)
        z = self.shared(z, h)
        return self.shared(z, h)  # by hand


def line_of(marker: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(marker))


def test_loops_know_the_line_they_stand_on() -> None:
    compiled = exact(Marked().eval(), torch.randn(3, WIDTH))
    outer, inner, by_hand = compiled.loops.walk()
    assert outer.source == f"passes/test_detect.py:{line_of('# outer')}"
    assert inner.source == f"passes/test_detect.py:{line_of('# inner')}"
    # Two steps that nobody wrote a loop around: the first line of them.
    assert by_hand.source == f"passes/test_detect.py:{line_of('# by hand') - 1}"


def test_without_call_stacks_there_is_no_line() -> None:
    (loop,) = loops_of("one_loop")
    nodes = [list(step) for step in loop.nodes]
    for node in (*nodes[0], *nodes[1]):
        node.meta.pop("stack_trace", None)
    assert loop_source(*nodes) is None


def test_a_file_that_cannot_be_read_gives_the_first_line() -> None:
    (loop,) = loops_of("one_loop")
    for node in (*loop.nodes[0], *loop.nodes[1]):
        node.meta["stack_trace"] = '  File "/gone/model.py", line 12, in forward\n    z = self.a(z)'
    assert re.fullmatch(r"gone/model\.py:12", loop_source(*loop.nodes) or "")


def test_one_operation_done_twice_is_not_worth_a_loop() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(self.a(x))

    assert loops(found(model(forward), torch.randn(3, WIDTH))[2]) == []
