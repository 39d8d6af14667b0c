"""Puts the parts of a training graph that run with gradients into segments, whose backward follows a memory plan.

A segment is a whole body where no loop is inside it, and otherwise what stands between loops: innermost bodies hold
most of what is kept, and a trace of them is one step long. What has no gradient stays as it is.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.memory.operators import whole
from laser_fx.memory.segment import Segment
from laser_fx.memory.tracked import Tracked
from laser_fx.memory.values import Keep
from laser_fx.nodes import GRAD_ENABLED, placeholder
from laser_fx.passes.infra import SET_GRAD, finish, getitem, rolled_loop
from laser_fx.passes.source import module_path

__all__ = ["bases_of", "cut_segments", "segments_of", "tracked_in"]


@dataclass(frozen=True)
class _Level:
    """A graph to cut, and where it stands.

    Args:
        keeps: what keeping an input costs; an input that is not named lives anyway.
        carries: placeholders of the carry, in order.
        trips: steps of the loop.
        times: how often the graph runs in one call.
    """

    name: str
    module: fx.GraphModule
    keeps: Mapping[fx.Node, Keep]
    carries: tuple[fx.Node, ...] = ()
    trips: int = 1
    times: int = 1


@dataclass(frozen=True)
class _Kernels:
    """What all segments compute with."""

    autocast: torch.dtype | None
    fastest: bool


def cut_segments(rolled: fx.GraphModule, autocast: torch.dtype | None, *, fastest: bool = False) -> fx.GraphModule:
    """A new graph, with every part that runs with gradients in a `Segment`.

    Args:
        rolled: an exact rolled graph.
        autocast: the dtype that autocast computes in, None when it is off.
        fastest: whether products of backward take the fastest kernel.
    """
    return _Cutter(_Level("top", rolled, {}), _Kernels(autocast, fastest)).run()


def segments_of(graph_module: fx.GraphModule) -> tuple[Segment, ...]:
    """The segments of a graph and of the loops in it."""
    return tuple(module for module in graph_module.modules() if isinstance(module, Segment))


def tracked_in(graph_module: fx.GraphModule) -> tuple[Tracked, ...]:
    """The bases of all values that a graph keeps in low rank."""
    return tuple(b for s in segments_of(graph_module) for b in s.bases.values() if isinstance(b, Tracked))


def bases_of(graph_module: fx.GraphModule) -> torch.nn.ModuleDict:
    """The same by the name of their site, which has no dots in it."""
    return torch.nn.ModuleDict({tracked.site.replace(".", "/"): tracked for tracked in tracked_in(graph_module)})


class _Cutter:
    """Copies one level, moving runs of nodes into segments."""

    def __init__(self, level: _Level, kernels: _Kernels) -> None:
        self.level, self.kernels = level, kernels
        self.graph = fx.Graph()
        self.root = torch.nn.Module()
        self.copies: dict[fx.Node, fx.Node] = {}
        self.run_nodes: dict[fx.Node, None] = {}
        self.count = 0

    def run(self) -> fx.GraphModule:
        for node in self.level.module.graph.nodes:
            if _belongs(node, self.run_nodes):
                self.run_nodes[node] = None
            else:
                if _ends_a_run(node) or any(source in self.run_nodes for source in node.all_input_nodes):
                    self._flush()
                self._copy(node)
        return finish(self.root, self.graph, f"Planned_{self.level.name}")

    def _copy(self, node: fx.Node) -> None:
        self.copies[node] = self.graph.node_copy(node, self.copies.__getitem__)
        loop = rolled_loop(self.level.module, node)
        if loop is None:
            return
        if node.meta[GRAD_ENABLED]:
            loop = loop.changed(body=_Cutter(self._inside(node, loop), self.kernels).run())
        self.root.add_module(str(node.target), loop)

    def _inside(self, call: fx.Node, loop: Any) -> _Level:
        holders = loop.body.graph.find_nodes(op="placeholder")
        keeps: dict[fx.Node, Keep] = {}
        for place, holder in enumerate(holders):
            if place < loop.carry_count:
                keeps[holder] = "carry"
            elif place < loop.varying_inputs:
                keeps[holder] = "each"
            elif not self._lives_anyway(call.args[loop.varying_arguments + place - loop.varying_inputs]):
                keeps[holder] = "once"
        times = self.level.times * loop.trip_count
        return _Level(loop.name, loop.body, keeps, tuple(holders[: loop.carry_count]), loop.trip_count, times)

    def _lives_anyway(self, value: Any) -> bool:
        if not isinstance(value, fx.Node):
            return True
        source = whole(value)
        return source.op == "placeholder" and source not in self.level.keeps

    def _flush(self) -> None:
        """Emit the nodes at hand: as a segment if they compute something for a gradient, else as they are."""
        nodes, self.run_nodes = tuple(self.run_nodes), {}
        inside = set(nodes)
        results = [node for node in nodes if any(user not in inside for user in node.users)]
        if not results or not all(isinstance(node.meta.get("val"), Tensor) for node in results):
            for node in nodes:
                self._copy(node)
            return
        given = list(dict.fromkeys(s for node in nodes for s in node.all_input_nodes if s not in inside))
        segment = self._segment(nodes, given, results)
        name = segment.name.replace("#", "_part_")
        self.root.add_module(f"segment_{name}", segment)
        call = self.graph.call_module(f"segment_{name}", tuple(self.copies[node] for node in given))
        call.meta = {"val": [node.meta["val"] for node in results], GRAD_ENABLED: True}
        for place, node in enumerate(results):
            part = self.graph.call_function(getitem, (call, place))
            part.meta = dict(node.meta)
            self.copies[node] = part

    def _segment(self, nodes: Sequence[fx.Node], given: Sequence[fx.Node], results: Sequence[fx.Node]) -> Segment:
        graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
        for node in given:
            copies[node] = placeholder(graph, node.name, node.meta["val"], True)
        for node in nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
        graph.output([copies[node] for node in results])
        keeps, carried = self._prices(given, results)
        name = f"{self.level.name}#{self.count}" if self.count else self.level.name
        self.count += 1
        module = finish(torch.nn.Module(), graph, "Segment")
        runs = self.level.trips, self.level.times
        linears = tuple(self._linear_names(nodes))
        return Segment(name, module, keeps, carried, *runs, self.kernels.autocast, self.kernels.fastest, linears)

    def _linear_names(self, nodes: Sequence[fx.Node]) -> Iterator[str]:
        """As sites are named; a module that is called twice in one body has the second one numbered."""
        seen: Counter[str] = Counter()
        for node in nodes:
            if node.target is torch.ops.aten.linear.default:
                key = f"{self.level.name}:{module_path(node) or node.name}"
                yield f"{key}#{seen[key]}" if seen[key] else key
                seen[key] += 1

    def _prices(self, given: Sequence[fx.Node], results: Sequence[fx.Node]) -> tuple[tuple[Keep, ...], tuple[int, ...]]:
        """What keeping each input costs, and the places of the outputs that are carries of the next step.

        A carry is one tensor with the output of the step before only if this segment makes that output.
        """
        following: Any = self.level.module.graph.output_node().args[0]
        pairs = dict(zip(self.level.carries, following[: len(self.level.carries)], strict=True))
        keeps: list[Keep] = []
        carried = []
        for node in given:
            keep: Keep = self.level.keeps.get(node, "free" if self._lives_anyway(node) else "each")
            if keep == "carry" and pairs[node] in results:
                carried.append(results.index(pairs[node]))
            elif keep == "carry":
                keep = "each"
            keeps.append(keep)
        return tuple(keeps), tuple(carried)


def _belongs(node: fx.Node, run: Mapping[fx.Node, None]) -> bool:
    """Whether a node goes into a segment with those before it."""
    if node.op != "call_function" or node.target is SET_GRAD or not node.meta.get(GRAD_ENABLED):
        return False
    outside = [source for source in node.all_input_nodes if source not in run]
    if not all(isinstance(source.meta.get("val"), Tensor | torch.SymInt) for source in outside):
        return False
    # Sizes that are known before the segment are given to it as numbers.
    is_size = not isinstance(node.meta.get("val"), Tensor | tuple | list)
    return len(outside) < len(node.all_input_nodes) or not (is_size or node.target is operator.getitem)


def _ends_a_run(node: fx.Node) -> bool:
    return node.op in ("call_module", "output") or node.target is SET_GRAD
