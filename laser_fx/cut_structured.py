"""Cuts structured loops out of a traced graph: what stands between two markers becomes the body of a `RolledLoop`.

A body takes tensors only. What it reads from outside becomes an invariant; a size is read off one of its own inputs, or
computed again from what it was computed from.
"""

from __future__ import annotations

from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from laser_fx.errors import CaptureError
from laser_fx.nodes import GRAD_ENABLED, LOOP_SOURCE, code_line, is_mutating, placeholder, read_size
from laser_fx.rolled import RolledLoop

__all__ = ["cut_structured", "refuse_shared_writes"]

aten = torch.ops.aten
_BEGIN, _END = "laser::loop_begin", "laser::loop_end"


def cut_structured(traced: fx.GraphModule) -> fx.GraphModule:
    """The graph with a ``call_module`` node in the place of each structured loop; as it is where there is none.

    Raises:
        CaptureError: a value that a body made is read outside of it, or a body reads a number out of a tensor.
    """
    if not any(_marks(node, _BEGIN) for node in traced.graph.nodes):
        return traced
    return _Cutter(traced).run()


def refuse_shared_writes(traced: fx.GraphModule) -> None:
    """Refuse a body that writes into what it is handed: eager would change the caller's tensor, and a loop does not.

    Raises:
        CaptureError: naming the line.
    """
    for node in filter(is_mutating, traced.graph.nodes):
        source = _written(node)
        if source.target is getitem and _marks(source.all_input_nodes[0], _BEGIN):
            raise CaptureError(
                f"the body of a structured loop writes into a value that it is handed, by {node.target}",
                where=code_line(node),
                fix="use the operator without the underscore, or write into a clone",
            )


def _written(node: fx.Node) -> fx.Node:
    """The value whose storage an operator writes into, views looked through."""
    while isinstance(node.target, torch._ops.OpOverload):
        pairs = zip(node.target._schema.arguments, node.args, strict=False)
        aliased = [given for argument, given in pairs if argument.alias_info and isinstance(given, fx.Node)]
        if not aliased:
            break
        (node, *_) = aliased
    return node


def _marks(node: fx.Node, name: str) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name == name


class _Level:
    """A graph that nodes are copied into: the top, or the body of a loop.

    Args:
        root: holds the loops that the graph calls.
        begin: the marker at which the body starts, None at the top.
    """

    def __init__(self, root: nn.Module, begin: fx.Node | None = None) -> None:
        self.root, self.begin = root, begin
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.outside: list[fx.Node] = []
        """For each input, the node of the traced graph that it stands for."""
        self.holders: list[fx.Node] = []

    @property
    def grad_enabled(self) -> bool:
        assert self.begin is not None  # asked of bodies only
        return bool(self.begin.meta[GRAD_ENABLED])

    def take(self, node: fx.Node, name: str, value: Any) -> fx.Node:
        """One more input."""
        with self.graph.inserting_after(self.holders[-1]) if self.holders else self.graph.inserting_before():
            holder = placeholder(self.graph, name, value, self.grad_enabled)
        self.outside.append(node)
        self.holders.append(holder)
        return holder

    def drop_unused(self, first: int) -> None:
        """Drop the inputs from ``first`` on that nothing reads."""
        unused = {holder for holder in self.holders[first:] if not holder.users}
        kept = [(o, h) for o, h in zip(self.outside, self.holders, strict=True) if h not in unused]
        for holder in unused:
            self.graph.erase_node(holder)
        self.outside, self.holders = [outside for outside, _ in kept], [holder for _, holder in kept]


class _Cutter:
    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.levels = [_Level(nn.Module())]
        self.count = 0

    def run(self) -> fx.GraphModule:
        for node in self.traced.graph.nodes:
            self._visit(node)
        (top,) = self.levels  # markers come in pairs
        _drop_dead(top)
        return fx.GraphModule(top.root, top.graph)

    def _visit(self, node: fx.Node) -> None:
        level = self.levels[-1]
        if _marks(node, _BEGIN):
            self._begin(node)
        elif _marks(node, _END):
            self._end(node)
        elif node.op == "output":
            level.graph.output(fx.map_arg(node.args[0], lambda n: self._value(n, node)))
        elif node.target is getitem and isinstance(inputs := level.env.get(node.args[0]), list):  # type: ignore[arg-type]
            level.env[node] = inputs[node.args[1]]  # type: ignore[index]
        elif level.begin is not None and _is_row_by_number(node):
            level.env[node] = self._row(node)
        else:
            level.env[node] = level.graph.node_copy(node, lambda n: self._value(n, node))

    def _begin(self, node: fx.Node) -> None:
        carry, stacked = _arguments(node)
        level = _Level(nn.Module(), node)
        names = [*(f"carry_{n.name}" for n in carry), *(f"step_{n.name}" for n in stacked)]
        taken = zip((*carry, *stacked), names, node.meta["val"], strict=True)
        level.env[node] = [level.take(source, name, value) for source, name, value in taken]
        for source in (*carry, *stacked):
            self._value(source, node)  # or it is refused here
        self.levels.append(level)

    def _end(self, node: fx.Node) -> None:
        following, collected = _arguments(node)
        body = self.levels[-1]
        body.graph.output(tuple(self._value(n, node) for n in (*following, *collected)))
        _drop_dead(body)
        _refuse_numbers(body.graph)
        self.levels.pop()
        self.levels[-1].env[node] = self._call(node, body, len(following), len(collected))

    def _call(self, node: fx.Node, body: _Level, carried: int, collected: int) -> fx.Node:
        assert body.begin is not None
        parent, name = self.levels[-1], f"loop_{self.count}"
        self.count += 1
        varying = set(body.holders[: len(body.begin.meta["val"])])
        body.drop_unused(carried)
        stacked = len(varying.intersection(body.holders)) - carried
        body.graph.lint()
        module = fx.GraphModule(body.root, body.graph, class_name=name)
        trips: Any = node.args[2]
        loop = RolledLoop(name, module, trips, carried, stacked_count=stacked, stacked_outputs=collected)
        parent.root.add_module(name, loop)
        call = parent.graph.call_module(name, tuple(self._value(n, node) for n in body.outside))
        call.meta = {**body.begin.meta, "val": node.meta["val"], LOOP_SOURCE: body.begin.args[2]}
        return call

    def _value(self, node: fx.Node, reader: fx.Node) -> Any:
        return self._at(len(self.levels) - 1, node, reader)

    def _at(self, depth: int, node: fx.Node, reader: fx.Node) -> Any:
        """The node's value at a level; what is outside becomes an input of each level on the way."""
        level = self.levels[depth]
        if node not in level.env:
            if not any(node in outer.env for outer in self.levels[:depth]):
                raise CaptureError(
                    "a value that the body of a structured loop made is read outside of it",
                    where=code_line(reader),
                    fix="return it from the body: as part of the carry, or as an output with collect=True",
                )
            if isinstance(node.meta["val"], Tensor):
                self._at(depth - 1, node, reader)
                level.env[node] = level.take(node, node.name, node.meta["val"])
            else:
                level.env[node] = self._number(depth, node, reader)
        return level.env[node]

    def _number(self, depth: int, node: fx.Node, reader: fx.Node) -> fx.Node:
        """A size from outside, in a body: no body takes a number."""
        graph = self.levels[depth].graph
        found = read_size(graph, node.meta["val"], self.levels[depth].grad_enabled)
        return found or graph.node_copy(node, lambda n: self._at(depth, n, reader))

    def _row(self, node: fx.Node) -> fx.Node:
        """``table[i]`` without reading the number out of the tensor ``i``."""
        graph = self.levels[-1].graph
        arguments: Any = node.args
        table, dimension, item = arguments
        index = self._value(item.args[0], node)

        def call(target: Any, *args: Any) -> fx.Node:
            made = graph.call_function(target, args)
            with node.meta["val"].fake_mode, torch.no_grad():
                made.meta = {**node.meta, "val": target(*fx.map_arg(args, lambda n: n.meta["val"]))}
            return made

        flat = call(aten.reshape.default, index, [1])
        rows = call(aten.index_select.default, self._value(table, node), dimension, flat)
        return call(aten.squeeze.dim, rows, dimension)


def _arguments(marker: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
    first, second, *_ = marker.args
    return list(first), list(second)  # type: ignore[arg-type]


def _is_row_by_number(node: fx.Node) -> bool:
    index = node.args[2] if node.target is aten.select.int and len(node.args) > 2 else None
    return isinstance(index, fx.Node) and index.target is aten.item.default


def _refuse_numbers(graph: fx.Graph) -> None:
    for node in graph.find_nodes(op="call_function", target=aten.item.default):
        raise CaptureError(
            "the body of a structured loop reads a number out of a tensor",
            where=code_line(node),
            fix="compute with the tensor itself: a body is traced once, for all of its steps",
        )


def _drop_dead(level: _Level) -> None:
    """Drop what nothing reads, but for what draws random numbers."""

    def is_kept(node: fx.Node) -> bool:
        if node.op != "call_module":
            return node.is_impure()
        return _draws(level.root.get_submodule(str(node.target)))

    level.graph.eliminate_dead_code(is_kept)


def _draws(loop: nn.Module) -> bool:
    bodies = [m for m in loop.modules() if isinstance(m, fx.GraphModule)]
    return any(node.op == "call_function" and node.is_impure() for body in bodies for node in body.graph.nodes)
