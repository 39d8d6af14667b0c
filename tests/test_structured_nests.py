"""Random nests of Python and structured loops: compiled equals eager, bit by bit, and has every loop as written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import laser_fx
from tests.small import WIDTH, backward, exact, model, same

ROWS = 5


@dataclass(frozen=True)
class Level:
    """One loop: how it is written, its trips, the loop inside it, and what a step does besides its linear."""

    structured: bool
    trips: int
    inner: Level | None
    reads_row: bool
    reads_number: bool
    collects: bool
    without_gradients: bool


def levels(depth: int) -> st.SearchStrategy[Level]:
    flags = [st.booleans()] * 4
    inner = st.none() if depth == 1 else st.none() | levels(depth - 1)
    return st.builds(Level, st.just(True) | st.booleans(), st.integers(2, ROWS), inner, *flags)


class Runner:
    """Runs a nest on one state for each of its levels."""

    def __init__(self, parts: Any, x: Tensor) -> None:
        self.parts, self.x = parts, x

    def run(self, level: Level, states: list[Tensor], depth: int = 0) -> tuple[list[Tensor], Tensor]:
        rows = (self.parts.rows[: level.trips],) if level.reads_row else ()

        def body(i: Tensor, states: list[Tensor], *row: Tensor) -> Any:
            states = list(states)
            if level.inner is not None:
                states, sums = self.run(level.inner, states, depth + 1)
                states[depth] = states[depth] + sums.unsqueeze(-1)
            states[depth] = self.step(level, i, states[depth], row)
            return (states, states[depth].sum(-1)) if level.collects else states

        if level.structured:
            final = laser_fx.loop(body, states, level.trips, per_step=rows, collect=level.collects)
            states, sums = final if level.collects else (final, None)
        else:
            states, sums = self.by_hand(body, states, level, rows)
        return states, sums.sum(0) if sums is not None else states[depth].sum(-1)

    def step(self, level: Level, i: Tensor, z: Tensor, row: tuple[Tensor, ...]) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not level.without_gradients):
            seen = self.parts.b(z)
        z = self.parts.a(z) + seen + (i if level.reads_number else 0)
        return torch.tanh(sum(row, z) + self.x)

    @staticmethod
    def by_hand(body: Any, states: list[Tensor], level: Level, rows: tuple[Tensor, ...]) -> Any:
        outputs = []
        for t in range(level.trips):
            result = body(torch.tensor(t), states, *(values[t] for values in rows))
            states, output = result if level.collects else (result, None)
            outputs.append(output)
        return states, torch.stack(outputs) if level.collects else None


def structured_trips(level: Level | None) -> list[int]:
    if level is None:
        return []
    return [level.trips] * level.structured + structured_trips(level.inner)


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(level=levels(3).filter(structured_trips), training=st.booleans())
def test_compiled_is_eager(level: Level, training: bool) -> None:
    def forward(self: Any, x: Tensor) -> Any:
        return Runner(self, x).run(level, [x, x * 0.5, x + 1])

    torch.manual_seed(0)
    module, x = model(forward).train(training), torch.randn(3, WIDTH)
    compiled = exact(module, x)
    found = [loop.trip_count for loop in compiled.loops.walk()]
    for trips in structured_trips(level):
        found.remove(trips)
    if training:
        assert same(backward(compiled, module, x), backward(module, module, x))
    else:
        with torch.no_grad():
            assert same(compiled(x), module(x))
