"""A case as a captured graph, made directly: tracing ten thousand modules would take hours."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.roll import Door
from tests.fuzz.program import LONGEST, Case
from tests.fuzz.source import PRELUDE, program_source

__all__ = ["SHAPES", "Built", "build", "run_eagerly", "tensors"]

ROWS, WIDTH = 3, 4
SHAPES = {
    "w0": (WIDTH, WIDTH),
    "w1": (WIDTH, WIDTH),
    "w2": (WIDTH, WIDTH),
    "b0": (WIDTH,),
    "b1": (WIDTH,),
    "rows": (LONGEST, WIDTH),
    "start": (WIDTH,),
    "x": (ROWS, WIDTH),
    "y": (ROWS, WIDTH),
    "xs": (ROWS, LONGEST, WIDTH),
}
INPUTS = ("x", "y", "xs")


@dataclass(frozen=True)
class Built:
    """A captured graph, and what is known of its inputs."""

    graph_module: fx.GraphModule
    door: Door


def build(case: Case) -> Built:
    """The graph that a capture of the case would give."""
    tape = _Tape(case.training)
    held = {name: tape.placeholder(name if name in INPUTS else f"p_{name}", shape) for name, shape in SHAPES.items()}
    outputs = _run(case, tape, getitem=tape.getitem, gradients=tape.gradients, held=held)
    tape.graph.output(outputs)
    tape.graph.eliminate_dead_code()
    weights = [name for name in SHAPES if name not in INPUTS]
    identities: dict[str, Hashable] = {f"p_{name}": name for name in weights}
    if case.tied:
        identities["p_w2"] = identities["p_w0"]
    states = {f"p_{name}": name for name in weights}
    return Built(
        fx.GraphModule(torch.nn.Module(), tape.graph), Door(identities, frozenset(states), states, case.training)
    )


def tensors(case: Case, seed: int = 0) -> dict[str, Tensor]:
    """A tensor for each placeholder, by its short name; a tied weight is the other one."""
    generator = torch.Generator().manual_seed(seed)
    held = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    held = {name: value.requires_grad_(case.training) for name, value in held.items()}
    return {**held, "w2": held["w0"]} if case.tied else held


def run_eagerly(case: Case, held: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the program returns, in plain PyTorch."""

    def gradients(on: bool) -> Any:
        return torch.set_grad_enabled(on and torch.is_grad_enabled())

    return _run(case, SimpleNamespace(aten=torch.ops.aten), getitem=getitem, gradients=gradients, held=held)


def _run(case: Case, holder: Any, *, held: dict[str, Any], **names: Any) -> tuple[Any, ...]:
    scope: dict[str, Any] = {"aten": holder.aten, "torch": torch, **names}
    exec(PRELUDE + "\n\n" + program_source(case), scope)
    result: tuple[Any, ...] = scope["program"](SimpleNamespace(**held), *(held[name] for name in INPUTS))
    return result


class _Tape:
    """Stands for ``torch.ops``: what is called becomes a node."""

    def __init__(self, grad_enabled: bool) -> None:
        self.graph, self.grad_enabled = fx.Graph(), grad_enabled
        self.aten = _Namespace(self)

    def placeholder(self, name: str, shape: tuple[int, ...]) -> fx.Node:
        with _FAKE:
            return self._described(self.graph.placeholder(name), torch.empty(shape))

    def getitem(self, source: fx.Node, index: int) -> fx.Node:
        return self._described(self.graph.call_function(getitem, (source, index)), source.meta["val"][index])

    def call(self, target: Any, args: tuple[Any, ...]) -> fx.Node:
        values = fx.map_arg(args, lambda node: node.meta["val"])
        key = (target, str(values))
        if key not in _KNOWN:
            with _FAKE, torch.no_grad():
                _KNOWN[key] = target(*values)
        return self._described(self.graph.call_function(target, args), _KNOWN[key])

    def _described(self, node: fx.Node, value: Any) -> fx.Node:
        node.meta = {"val": value, GRAD_ENABLED: self.grad_enabled}
        return node

    @contextmanager
    def gradients(self, on: bool) -> Iterator[None]:
        before, self.grad_enabled = self.grad_enabled, on and self.grad_enabled
        yield
        self.grad_enabled = before


_FAKE = FakeTensorMode()
_KNOWN: dict[Hashable, Any] = {}
"""Fake results of calls that were made before, in any case."""


class _Namespace:
    """``aten``, then an operator, then one of its overloads."""

    def __init__(self, tape: _Tape, found: Any = torch.ops.aten) -> None:
        self._tape, self._found = tape, found

    def __getattr__(self, name: str) -> _Namespace:
        return _Namespace(self._tape, getattr(self._found, name))

    def __call__(self, *args: Any) -> fx.Node:
        return self._tape.call(self._found, args)
