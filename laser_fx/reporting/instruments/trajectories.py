"""How the carries of all loops move from step to step, and how far an approximation takes them from the exact ones."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.loops import Loop, LoopNest
from laser_fx.passes.find_sites import size_hint
from laser_fx.program import Program
from laser_fx.reporting.instruments.spectrum import rounded
from laser_fx.reporting.instruments.watch import Watcher, sampled, watch
from laser_fx.reporting.measured import CarryTrajectory, TrajectoryStep
from laser_fx.rolled import RolledLoop

__all__ = ["measure_trajectories"]

_MOST = 2000
"""Steps that are reported of a carry."""
_HELD_BYTES = 2**28
"""What exact carries may take while they wait to be compared."""
_HALF = (torch.float16, torch.bfloat16)
_PIECE = re.compile(r"_from_(\d+)")

Steps = Mapping[str, Sequence[int]]


def measure_trajectories(program: Program) -> tuple[CarryTrajectory, ...]:
    """Every floating carry of every loop, on the example inputs.

    What runs is what the program runs; where that approximates, the exact graph runs too, in float32 where the model is
    of half precision, and each step is compared with it. Integer carries are left out.

    Args:
        program: any program.
    """
    nest = program.unsplit or program.nest
    carries = {loop.name: _floating(loop) for loop in nest.walk()}
    steps = {loop.name: sampled(prod(nest.trips_around(loop.name)), _MOST) for loop in nest.walk()}
    exact: _Held | None = None
    if _approximates(program):
        exact = _Held(_fitting(nest, carries), carries)
        watch(program, program.rolled, exact, wide=True)
    watcher = _Movement(program, steps, carries, exact)
    watch(program, _what_runs(program), watcher)
    return tuple(
        CarryTrajectory(loop.name, loop.carry[place], tuple(watcher.found[loop.name, place]))
        for loop in nest.walk()
        for place in carries[loop.name]
    )


def _what_runs(program: Program) -> fx.GraphModule:
    """A training forward is exact, however it keeps its values."""
    return program.rolled if program.mode.grad_enabled else program.graph_module


def _approximates(program: Program) -> bool:
    if _what_runs(program) is not program.rolled or program.mode.autocast in _HALF:
        return True
    return any(t.dtype in _HALF for t in program.arguments(program.rolled, program.example_inputs))


def _floating(loop: Loop) -> tuple[int, ...]:
    """Places of the carries whose movement can be measured."""
    return tuple(place for place, value in enumerate(_holders(loop)) if value.is_floating_point())


def _holders(loop: Loop) -> list[Tensor]:
    """The fake values of a loop's carries."""
    assert loop.body is not None
    holders = loop.body.graph.find_nodes(op="placeholder")[: len(loop.carry)]
    return [holder.meta["val"] for holder in holders if isinstance(holder.meta["val"], Tensor)]


def _fitting(nest: LoopNest, carries: Mapping[str, Sequence[int]]) -> Steps:
    """Steps to compare: so few that their exact carries can be held."""
    most = _MOST
    sizes = {loop.name: _bytes(loop, carries[loop.name]) for loop in nest.walk()}
    counts = {loop.name: prod(nest.trips_around(loop.name)) for loop in nest.walk()}
    while most > 2 and sum(sizes[name] * min(most, count) for name, count in counts.items()) > _HELD_BYTES:
        most = max(2, most // 2)
    return {name: sampled(count, most) for name, count in counts.items()}


def _bytes(loop: Loop, places: Sequence[int]) -> int:
    held = _holders(loop)
    return sum(prod(map(size_hint, held[place].shape)) * max(4, held[place].element_size()) for place in places)


class _Held(Watcher):
    """Keeps exact carries of some steps."""

    def __init__(self, steps: Steps, carries: Mapping[str, Sequence[int]]) -> None:
        self.steps = {name: frozenset(chosen) for name, chosen in steps.items()}
        self.carries = carries
        self.held: dict[tuple[str, int, int], Tensor] = {}

    def after_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any], carry: Sequence[Any]) -> None:
        if step in self.steps[loop.name]:
            for place in self.carries[loop.name]:
                self.held[loop.name, step, place] = carry[place].detach().clone()


class _Movement(Watcher):
    def __init__(
        self, program: Program, steps: Steps, carries: Mapping[str, Sequence[int]], exact: _Held | None
    ) -> None:
        self.steps = {name: frozenset(chosen) for name, chosen in steps.items()}
        self.carries, self.exact = carries, exact
        self.pieces = _Pieces(program) if program.unsplit else None
        self.found: defaultdict[tuple[str, int], list[TrajectoryStep]] = defaultdict(list)

    def after_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any], carry: Sequence[Any]) -> None:
        name, number = (loop.name, step) if self.pieces is None else self.pieces.place(loop.name, step)
        if number not in self.steps[name]:
            return
        for place in self.carries[name]:
            self.found[name, place].append(self._moved(name, number, place, inputs[place], carry[place]))

    def _moved(self, name: str, step: int, place: int, before: Tensor, after: Tensor) -> TrajectoryStep:
        change = _ratio(_norm(after - before) if before.shape == after.shape else None, _norm(before))
        whole = self.exact.held.pop((name, step, place), None) if self.exact else None
        if whole is None:
            return TrajectoryStep(step, change)
        return TrajectoryStep(step, change, _cosine(after, whole), _ratio(_norm(after - whole), _norm(whole)))


class _Pieces:
    """The loops that a rank schedule made of one: their steps follow upon each other."""

    def __init__(self, program: Program) -> None:
        self.nest = program.nest

    def place(self, name: str, step: int) -> tuple[str, int]:
        """Name of the loop that a piece is of, and the step in it."""
        found = _PIECE.search(name)
        if found is None:
            return name, step
        trips = self.nest.trips_around(name)
        inner = prod(trips[1:])
        return _PIECE.sub("", name), int(found[1]) * inner + step


def _norm(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value.detach().to(torch.float32), dtype=_widest(value)))


def _widest(value: Tensor) -> torch.dtype:
    return torch.float32 if value.device.type == "mps" else torch.float64


def _ratio(part: float | None, whole: float) -> float | None:
    return None if part is None or whole == 0.0 or not isfinite(part / whole) else rounded(part / whole)


def _cosine(found: Tensor, exact: Tensor) -> float | None:
    wide = _widest(found)
    first, second = found.reshape(-1).to(wide), exact.reshape(-1).to(wide)
    norms = float(first.norm() * second.norm())
    return None if norms == 0.0 or not isfinite(norms) else min(1.0, max(-1.0, float(first @ second) / norms))
