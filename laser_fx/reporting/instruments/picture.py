"""The rolled graph as nodes and edges to be drawn: no weights, no sizes, no plumbing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.passes.describe_loops import describe_value
from laser_fx.passes.infra import rolled_loop
from laser_fx.passes.pipeline import place_sites
from laser_fx.passes.source import module_path
from laser_fx.program import Program
from laser_fx.reporting.measured import GraphPicture, PictureNode
from laser_fx.rolled import RolledLoop

__all__ = ["MOST_NODES", "picture_of"]

MOST_NODES = 2000
"""More nodes than this are counted and not drawn."""

Names = tuple[str, ...]
"""Nodes of the picture that a value comes from; none for weights and sizes."""


def picture_of(program: Program, most: int = MOST_NODES) -> GraphPicture:
    """Draw what runs: ``program.rolled``, each body once, in the place of its loop.

    Results are read from the nodes that made them: neither a loop's call nor taking a part of a tuple is a node, and a
    loop's invariants are edges that go into it. Its carries, and what differs by step, are inputs of its body.

    Args:
        program: any program.
        most: how many nodes at most; outputs come on top.
    """
    found = _Drawer(program, most)
    return GraphPicture(tuple(found.nodes), found.left_out)


class _Drawer:
    def __init__(self, program: Program, most: int) -> None:
        self.sites = {placed.node: placed.site.key for placed in place_sites(program, "forward")}
        self.most, self.nodes, self.left_out = most, list[PictureNode](), 0
        self.place: dict[str, int] = {}
        names = dict(zip(program.user_inputs, program.input_names, strict=True))
        env: dict[fx.Node, Any] = {}
        for node in program.rolled.graph.find_nodes(op="placeholder"):
            env[node] = self._input(node, names[node.name]) if node.name in names else ()
        self._level(program.rolled, "", env)
        self._outputs(program, env)

    def _input(self, node: fx.Node, label: str, loop: str = "", inputs: Names = ()) -> Names:
        return self._add(PictureNode(_name(node, loop), label, "input", inputs, loop, shape=_shape(node)))

    def _add(self, node: PictureNode) -> Names:
        if len(self.nodes) >= self.most:
            self.left_out += 1
            return ()
        self.place[node.name] = len(self.nodes)
        self.nodes.append(node)
        return (node.name,)

    def _level(self, module: fx.GraphModule, loop: str, env: dict[fx.Node, Any]) -> None:
        for node in module.graph.nodes:
            inner = rolled_loop(module, node)
            if inner is not None:
                env[node] = self._loop(node, inner, env)
            elif node.target is getitem:
                env[node] = _part(env[node.args[0]], node.args[1])
            elif node.op == "call_function":
                env[node] = self._operator(node, loop, env)

    def _operator(self, node: fx.Node, loop: str, env: Mapping[fx.Node, Any]) -> Names:
        if not _has_tensor(node.meta.get("val")):
            return ()
        inputs = _distinct(env.get(source, ()) for source in node.all_input_nodes)
        site = self.sites.get(node, "")
        module = module_path(node)
        return self._add(
            PictureNode(
                _name(node, loop),
                _label(node.target),
                inputs=inputs,
                loop=loop,
                module=module,
                site=site,
                shape=_shape(node),
            )
        )

    def _loop(self, call: fx.Node, loop: RolledLoop, env: Mapping[fx.Node, Any]) -> list[Any]:
        """Draw a body; what its call returns, as names."""
        holders = loop.body.graph.find_nodes(op="placeholder")
        given = [_distinct([env.get(a, ())]) if isinstance(a, fx.Node) else () for a in call.args]
        inner: dict[fx.Node, Any] = {}
        for place, holder in enumerate(holders):
            if place < loop.varying_inputs:
                sources = _distinct(_arguments(loop, given, place))
                inner[holder] = self._input(holder, holder.name, loop.name, sources)
            else:
                inner[holder] = given[loop.varying_arguments + place - loop.varying_inputs]
        self._level(loop.body, loop.name, inner)
        returned: Any = loop.body.graph.output_node().args[0]
        results = [inner.get(value, ()) if isinstance(value, fx.Node) else () for value in returned]
        for holder, result in zip(holders[: loop.carry_count], results, strict=False):
            self._carry(inner[holder], _distinct([result]))
        return results

    def _carry(self, held: Names, following: Names) -> None:
        for name in held:
            place = self.place[name]
            self.nodes[place] = replace(self.nodes[place], carried=following)

    def _outputs(self, program: Program, env: Mapping[fx.Node, Any]) -> None:
        returned: Any = program.rolled.graph.output_node().args[0]
        for place, (label, value) in enumerate(zip(program.output_names, returned, strict=True)):
            if isinstance(value, fx.Node):
                names = _distinct([env.get(value, ())])
                self.nodes.append(PictureNode(f"output_{place}", label, "output", names, shape=_shape(value)))


def _arguments(loop: RolledLoop, given: Sequence[Names], place: int) -> Sequence[Names]:
    """What a body's input is given by the call: one value, or that of each step."""
    if place < loop.carry_count:
        return given[place : place + 1]
    stream = place - loop.carry_count
    if stream < loop.per_step_count:
        first = loop.carry_count + stream * loop.trip_count
        return given[first : first + loop.trip_count]
    first_stacked = loop.varying_arguments - loop.stacked_count
    return given[first_stacked + stream - loop.per_step_count :][:1]


def _part(value: Any, index: Any) -> Any:
    """A part of what a loop returns; of anything else the whole."""
    return value[index] if isinstance(value, list) and isinstance(index, int) else value


def _distinct(values: Any) -> Names:
    return tuple(dict.fromkeys(name for value in values for name in _flat(value)))


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    else:
        for entry in value:
            yield from _flat(entry)


def _name(node: fx.Node, loop: str) -> str:
    return f"{loop}/{node.name}" if loop else node.name


def _label(target: Any) -> str:
    """``linear`` for ``aten.linear.default``."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1].strip("_")
    return str(getattr(target, "__name__", target))


def _has_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_has_tensor, value)))


def _shape(node: fx.Node) -> str:
    """``float32[s0, 36, 256]``; empty for what is no tensor."""
    return describe_value(node).partition(": ")[2] if isinstance(node.meta.get("val"), Tensor) else ""
