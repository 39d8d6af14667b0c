"""Runs a rolled graph and lets an instrument look on: at sites, and at the carry before and after each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from laser_fx.nodes import is_mutating
from laser_fx.passes.infra import SET_GRAD
from laser_fx.program import Program
from laser_fx.rolled import RolledLoop

__all__ = ["Watcher", "sampled", "undisturbed", "watch"]

_HALF = (torch.float16, torch.bfloat16)


class Watcher:
    """What an instrument is told while a graph runs. Steps count from 0 over the whole call, for each site or loop."""

    def at_site(self, key: str, step: int, x: Tensor) -> None:
        """The activation (…, D) that a site is about to read."""

    def before_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any]) -> None:
        """What a body is about to be given: carry, per-step values, stacked rows, invariants."""

    def after_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any], carry: Sequence[Any]) -> None:
        """What it was given, and the carry that it returned."""


class Runner(fx.Interpreter):
    """Runs a rolled graph and the loops in it node by node, never changing the grad mode.

    Args:
        graph_module: a rolled graph, or a body.
        watcher: is told of sites and steps.
        sites: nodes of the graph, or of loops in it → keys of their sites.
        wide: compute in float32 what the graph casts to half precision.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        watcher: Watcher | None = None,
        sites: Mapping[fx.Node, str] | None = None,
        *,
        wide: bool = False,
    ) -> None:
        super().__init__(graph_module)
        self.watcher, self.sites, self.wide = watcher or Watcher(), sites or {}, wide
        self.writes = any(is_mutating(n) for m in _levels(graph_module) for n in m.graph.nodes)
        self.counts: Counter[str] = Counter()
        self._bodies: dict[str, Runner] = {}

    def run_node(self, n: fx.Node) -> Any:
        key = self.sites.get(n)
        if key is not None:
            self.watcher.at_site(key, self._counted(key), self.env[n.all_input_nodes[0]].detach())
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is SET_GRAD:
            return None
        if target is torch.ops.aten.detach.default:
            return args[0]  # nobody trains here: what a step makes of a change is the same with and without
        if self.wide:
            args, kwargs = pytree.tree_map(_widened, (args, kwargs))
        return super().call_function(target, args, kwargs)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        loop = self.fetch_attr(target)
        if not isinstance(loop, RolledLoop):
            return super().call_module(target, args, kwargs)
        body = self._body(loop)
        watched = loop.changed()
        watched.compiled_body = lambda *inputs: self._step(loop, body, inputs)
        return watched(*args)

    def _body(self, loop: RolledLoop) -> Runner:
        """What runs a body, made once: it keeps counting."""
        if loop.name not in self._bodies:
            runner = Runner(loop.body, self.watcher, self.sites, wide=self.wide)
            runner.counts = self.counts
            self._bodies[loop.name] = runner
        return self._bodies[loop.name]

    def _step(self, loop: RolledLoop, body: Runner, inputs: tuple[Any, ...]) -> Any:
        step = self._counted(f"loop {loop.name}")
        self.watcher.before_step(loop, step, inputs)
        seen = tuple(map(_copied, inputs)) if body.writes else inputs
        results = body.run(*inputs)
        self.watcher.after_step(loop, step, seen, results[: loop.carry_count])
        return results

    def _counted(self, key: str) -> int:
        self.counts[key] += 1
        return self.counts[key] - 1


def watch(
    program: Program,
    graph_module: fx.GraphModule,
    watcher: Watcher,
    sites: Mapping[fx.Node, str] | None = None,
    *,
    wide: bool = False,
) -> None:
    """Run a graph of a program once on its example inputs, and let a watcher look on.

    Args:
        program: whose weights and inputs it takes; both stay as they are, and so does the state of random numbers.
        graph_module: ``program.rolled`` or ``program.graph_module``.
        watcher: is told of sites and steps.
        sites: nodes → keys of their sites.
        wide: compute in float32 where the program is of half precision.
    """
    with undisturbed(program):
        inputs = [tensor.clone() for tensor in program.example_inputs]  # a graph may write into them
        arguments = program.arguments(graph_module, inputs)
        if wide:
            arguments = [_widened(value) for value in arguments]
        Runner(graph_module, watcher, sites, wide=wide).run(*arguments)


@contextmanager
def undisturbed(program: Program) -> Iterator[None]:
    """Inside: no gradients, no autocast of the caller's; afterwards grad mode and random numbers are as they were."""
    kind = program.capture.call.device_type
    devices = sorted({t.device.index or 0 for t in program.example_inputs if t.device.type == "cuda"})
    with (
        torch.random.fork_rng(devices),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(kind, enabled=False),
    ):
        yield


def sampled(total: int, most: int) -> tuple[int, ...]:
    """At most so many numbers below ``total``, evenly spaced, the first and the last among them.

    >>> sampled(5, 10), sampled(100, 4)
    ((0, 1, 2, 3, 4), (0, 33, 66, 99))
    """
    if total <= most:
        return tuple(range(total))
    if most < 2:
        return (total - 1,) if most else ()
    return tuple(round(place * (total - 1) / (most - 1)) for place in range(most))


def _levels(graph_module: fx.GraphModule) -> list[fx.GraphModule]:
    return [module for module in graph_module.modules() if isinstance(module, fx.GraphModule)]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _widened(value: Any) -> Any:
    """Half precision as float32, of a tensor or of an argument that names it; everything else as it is."""
    if isinstance(value, torch.dtype):
        return torch.float32 if value in _HALF else value
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value
