"""Random loop nests, and repetitions with a step that differs: what is compiled must equal eager, bit by bit."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from laser_fx.errors import NoLoopWarning
from tests.small import WIDTH, exact, model, same

OPERATIONS = ("a", "b", "tanh", "sin", "add", "sub", "mul", "row")


@dataclass(frozen=True)
class Level:
    """One loop: trips, operations of a step, the loop that runs first in it, and whether each step has an output.

    An operation is (name, argument): the argument picks a state or the input, a factor, or a row.
    """

    trips: int
    operations: tuple[tuple[str, int], ...]
    inner: Level | None
    records: bool


@dataclass(frozen=True)
class Nest:
    """A nest, and the (operation number in program order) that is replaced by another one, if any."""

    level: Level
    mutation: int | None = None


operations = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3)), min_size=1, max_size=4).map(tuple)


def levels(depth: int) -> st.SearchStrategy[Level]:
    inner = st.none() if depth == 1 else st.none() | levels(depth - 1)
    trips = st.integers(2, 5) if depth == 1 else st.integers(2, 3)
    return st.builds(Level, trips, operations, inner, st.booleans())


class Runner:
    """Runs a nest on states, one for each of its levels."""

    def __init__(self, parts: Any, x: Tensor, mutation: int | None) -> None:
        self.parts, self.x, self.mutation = parts, x, mutation
        self.states = [x, x * 0.5, x + 1]
        self.outputs: list[Tensor] = []
        self.count = 0

    def run(self, level: Level, depth: int = 0) -> None:
        for t in range(level.trips):
            if level.inner is not None:
                self.run(level.inner, depth + 1)
            z = self.states[depth]
            for name, argument in level.operations:
                z = self.operation(name, argument, z, t)
            self.states[depth] = torch.tanh(self.parts.a(z) + self.x)
            if level.records:
                self.outputs.append(z.sum(-1))

    def operation(self, name: str, argument: int, z: Tensor, t: int) -> Tensor:
        self.count += 1
        if self.count - 1 == self.mutation:
            return torch.sigmoid(z)
        other = (*self.states, self.x)[argument]
        if name in ("a", "b"):
            return getattr(self.parts, name)(z)
        if name in ("tanh", "sin"):
            return getattr(torch, name)(z)
        if name == "row":
            return z + self.parts.rows[t]
        if name == "mul":
            return z * (0.25 + argument)
        return z + other if name == "add" else z - other


def compiled_equals_eager(nest: Nest) -> tuple[tuple[int, int], ...]:
    def forward(self: Any, x: Tensor) -> tuple[Any, ...]:
        runner = Runner(self, x, nest.mutation)
        runner.run(nest.level)
        return (*runner.states, runner.outputs)

    torch.manual_seed(0)
    module = model(forward)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", NoLoopWarning)
        compiled = exact(module, torch.randn(3, WIDTH))
        for rows in (3, 5):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), module(x))
    return compiled.loops.trips()


quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@quick
@given(levels(3), st.none() | st.integers(0, 20))
def test_whatever_is_found_equals_eager_bitwise(level: Level, mutation: int | None) -> None:
    compiled_equals_eager(Nest(level, mutation))


def clean(trips: tuple[int, ...]) -> Level:
    """A nest in which every level has an operator of its own, so that no other nest describes it as well."""
    names = ("sin", "mul", "tanh")
    level: Level | None = None
    for depth in reversed(range(len(trips))):
        own = ((names[depth], depth), ("add", depth - 1)) if depth else ((names[0], 0), ("add", 1))
        level = Level(trips[depth], own, level, False)
    if level is None:
        raise ValueError("a nest has at least one level")
    return level


@settings(quick, max_examples=12)
@given(st.lists(st.integers(2, 4), min_size=1, max_size=3).map(tuple))
def test_a_clean_nest_is_found_as_it_was_written(trips: tuple[int, ...]) -> None:
    assert compiled_equals_eager(Nest(clean(trips))) == tuple(enumerate(trips))
