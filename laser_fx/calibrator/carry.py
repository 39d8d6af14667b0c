"""How far the state of the outermost loop drifts, step by step, from what it is in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.calibration import CarryStep
from laser_fx.rolled import RolledLoop

__all__ = ["compared", "trajectory"]


def trajectory(graph_module: fx.GraphModule, arguments: Sequence[Tensor]) -> list[Tensor]:
    """What the outermost loops of a graph carry after each step: floating values, flattened into one.

    Args:
        graph_module: a rolled graph.
        arguments: what it takes.
    """
    recorder = _Recorder(graph_module)
    with torch.no_grad():
        recorder.run(*arguments)
    return recorder.states


def compared(found: Sequence[Tensor], exact: Sequence[Tensor]) -> tuple[CarryStep, ...]:
    """Cosine and relative error of each step's state.

    >>> compared([torch.tensor([3.0, 0.0])], [torch.tensor([3.0, 4.0])])
    (CarryStep(cosine=0.6, error=0.8),)
    """
    return tuple(_step(mine.double(), whole.double()) for mine, whole in zip(found, exact, strict=True))


def _step(found: Tensor, exact: Tensor) -> CarryStep:
    norms = float(found.norm() * exact.norm())
    size = float(exact.norm())
    cosine = float(found @ exact) / norms if norms else 1.0
    return CarryStep(round(cosine, 9), float((found - exact).norm()) / size if size else 0.0)


class _Recorder(fx.Interpreter):
    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.states: list[Tensor] = []

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop: RolledLoop = self.fetch_attr(target)
        copied = loop.changed()
        copied.compiled_body = lambda *values: self._recorded(loop, loop.body(*values))
        return copied(*args)

    def _recorded(self, loop: RolledLoop, results: tuple[Any, ...]) -> tuple[Any, ...]:
        floating = [v.reshape(-1) for v in results[: loop.carry_count] if v.is_floating_point()]
        if floating:
            self.states.append(torch.cat([value.double() for value in floating]))
        return results
