"""A rolled program step by step: what it would answer if its outermost loop ended after each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from laser_fx.rolled import RolledLoop

__all__ = ["Trajectory"]


class Trajectory:
    """Runs the loop's body once for each step, and what comes after the loop as often as it is asked for.

    Args:
        module: the top level of a rolled graph.
        arguments: what its placeholders stand for.
        loop: name of an outermost loop.
        trips: steps in all; ``None`` for as many as it was traced with.

    >>> def body(z): return z * 2, z
    >>> def top(self, z):
    ...     final, seen = self.loop_0(z)
    ...     return final + 1, seen
    >>> loop = RolledLoop("loop_0", fx.symbolic_trace(body), trip_count=3, carry_count=1)
    >>> graph = fx.Graph()
    >>> z = graph.placeholder("z")
    >>> call = graph.call_module("loop_0", (z,))
    >>> _ = graph.output((call,))
    >>> trajectory = Trajectory(fx.GraphModule({"loop_0": loop}, graph), [torch.ones(())], "loop_0", None)
    >>> trajectory.steps, trajectory.after(2)
    (3, ((tensor(4.), [tensor(1.), tensor(2.)]),))
    """

    def __init__(self, module: fx.GraphModule, arguments: Sequence[Any], loop: str, trips: int | None) -> None:
        self._module, self._arguments, self._loop = module, list(arguments), loop
        self._states: list[tuple[Any, ...]] = []
        self._rolled: RolledLoop | None = None
        with torch.no_grad():
            _Stepping(module, loop, self._record(trips)).run(*self._arguments)

    @property
    def steps(self) -> int:
        """Steps in all."""
        return len(self._states)

    def after(self, steps: int) -> tuple[Any, ...]:
        """The program's results, the loop ended after so many steps."""
        with torch.no_grad():
            return tuple(_Stepping(self._module, self._loop, lambda *_: self._results(steps)).run(*self._arguments))

    def _record(self, trips: int | None) -> Callable[..., tuple[Any, ...]]:
        def run(loop: RolledLoop, *arguments: Any) -> tuple[Any, ...]:
            self._rolled = loop
            one_step, carry = loop.changed(trip_count=1), arguments[: loop.carry_count]
            for step in range(loop.trip_count if trips is None else trips):
                results = one_step(*carry, *_at(loop, arguments, step))
                carry = results[: loop.carry_count]
                self._states.append(results)
            return self._results(self.steps)

        return run

    def _results(self, steps: int) -> tuple[Any, ...]:
        """What the loop gives after so many steps: its last carries, and what every step left out."""
        assert self._rolled is not None  # the loop has run
        count, stacked = self._rolled.carry_count, self._rolled.stacked_outputs
        columns = list(zip(*(state[count:] for state in self._states[:steps]), strict=True))
        lists = [[entry for step in column for entry in step] for column in columns[: len(columns) - stacked]]
        wholes = [torch.cat(column) for column in columns[len(columns) - stacked :]]
        return (*self._states[steps - 1][:count], *lists, *wholes)


def _at(loop: RolledLoop, arguments: Sequence[Any], step: int) -> list[Any]:
    """The arguments after the carry, for a loop that makes one step."""
    first_stacked = loop.varying_arguments - loop.stacked_count
    streams = arguments[loop.carry_count : first_stacked]
    rows = [whole[step : step + 1] for whole in arguments[first_stacked : loop.varying_arguments]]
    return [*streams[step :: loop.trip_count], *rows, *arguments[loop.varying_arguments :]]


class _Stepping(fx.Interpreter):
    """Runs a graph, one of its loops by another function."""

    def __init__(self, module: fx.GraphModule, loop: str, run: Callable[..., tuple[Any, ...]]) -> None:
        super().__init__(module)
        self._loop, self._run = loop, run

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = self.fetch_attr(target)
        return self._run(loop, *args) if loop.name == self._loop else loop(*args, **kwargs)
