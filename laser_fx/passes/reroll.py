"""Writes the graph again with every found loop as a `RolledLoop`.

A body is copied node by node from the first step: it is never traced again, so it computes what the captured step
computed. Weights reach a body as invariants. What depends on weights and constants alone is computed once, before the
loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import fx, nn

from laser_fx.errors import PassError
from laser_fx.loops import Loop, LoopNest
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.describe_loops import describe_body, describe_structured
from laser_fx.passes.detect import FoundLoop
from laser_fx.passes.infra import SET_GRAD, PassResult, finish, getitem, placeholder, rolled_loop
from laser_fx.passes.keys import is_symbolic
from laser_fx.passes.normalise import Block, Item, Ref, View
from laser_fx.passes.sizes import Sizes
from laser_fx.passes.source import loop_source, parting_line
from laser_fx.rolled import RolledLoop

__all__ = ["Rolled", "reroll"]


@dataclass(frozen=True)
class Rolled(PassResult):
    """A rolled graph and its nest."""

    nest: LoopNest = field(default_factory=LoopNest)


def reroll(
    captured: fx.GraphModule,
    view: View,
    block: Block,
    states: Mapping[str, str],
    grad_enabled: bool,
    prefix: str = "loop",
) -> Rolled:
    """Write ``captured`` again with the loops of ``block``.

    Args:
        captured: the flat graph.
        view: its normalised view.
        block: what `detect` made of the view.
        states: placeholder → name of the parameter or buffer in the model.
        grad_enabled: the grad mode at the graph's door.
        prefix: names of loops begin with it.

    Returns:
        The rolled graph with the same placeholders and outputs, and the nest of its loops. A loop that was captured as
        one stands in it with its captured body. Where there is no loop at all, and no switch of the grad mode to write,
        it is ``captured`` itself.
    """
    found = any(item.loop is not None for item in block.items) or captured.graph.find_nodes(op="call_module")
    if not found and not grad_enabled:
        return Rolled(captured)
    root = nn.Module()
    writer = _Writer(root, view.static, states, grad_enabled, prefix)
    for node in captured.graph.nodes:
        if node.op == "placeholder":
            writer.copy_placeholder(node)
    inputs = [n for n in captured.graph.nodes if n.op == "placeholder" and n not in view.static]
    writer.bind({(-1 - k, 0): writer.static_nodes[node] for k, node in enumerate(inputs)})
    for node in captured.graph.find_nodes(op="call_module"):
        if view.static.get(node) == node:  # before a loop that reads it: it is a loop too, with a name in order
            writer.write_static(node)
    writer.write(block)
    graph_module = finish(root, writer.graph, "Rolled")
    nest = LoopNest(tuple(writer.loops))
    notes = tuple(f"{loop.name}: {loop.trip_count} steps rolled into one" for loop in nest.walk())
    return Rolled(graph_module, notes, nest)


class _Writer:
    """Writes one graph: the top level, or a body."""

    def __init__(
        self,
        root: nn.Module,
        static: Mapping[fx.Node, fx.Node],
        states: Mapping[str, str],
        grad_enabled: bool,
        prefix: str,
    ) -> None:
        self.root, self.static, self.states, self.prefix = root, static, states, prefix
        self.graph = fx.Graph()
        self.door_mode = self.mode = grad_enabled
        self.values: dict[Ref, fx.Node] = {}
        self.static_nodes: dict[fx.Node, fx.Node] = {}
        self.sizes = Sizes(self.graph)
        self.loops: list[Loop] = []
        self.nodes: dict[str, tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]]] = {}
        self.calls: dict[int, fx.Node] = {}
        self.request_static: Callable[[fx.Node], fx.Node] | None = None

    def copy_placeholder(self, node: fx.Node) -> None:
        self.static_nodes[node] = self.graph.node_copy(node)

    def bind(self, values: Mapping[Ref, fx.Node]) -> None:
        self.values.update(values)

    def write(self, block: Block) -> None:
        for index, item in enumerate(block.items):
            if item.loop is None:
                self._copy_item(index, item, block)
            else:
                self._write_loop(index, item, block)
        results = tuple(self._output(output, block) for output in block.outputs)
        self._set_mode(self.door_mode)
        self.graph.output(results)

    def _output(self, output: Any, block: Block) -> Any:
        if isinstance(output, tuple):
            return self._value(output, block)
        return self.write_static(output) if isinstance(output, fx.Node) else output

    def _copy_item(self, index: int, item: Item, block: Block) -> None:
        node, refs = item.node, iter(item.args)
        if node is None:
            raise PassError(f"item {index} is neither a node nor a loop", where="reroll")

        def argument(source: fx.Node) -> fx.Node:
            if source in self.static and source.op == "placeholder":
                return self.write_static(source)
            return self.sizes(source) if is_symbolic(source) else self._value(next(refs), block)

        # Arguments are resolved first: a weight's derived value may have to be written before this node.
        args, kwargs = fx.map_arg(node.args, argument), fx.map_arg(node.kwargs, argument)
        self._set_mode(bool(node.meta[GRAD_ENABLED]))
        self.values[index, 0] = self._create(node, args, kwargs)

    def _create(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        owner = node.graph.owning_module
        loop = rolled_loop(owner, node) if owner is not None else None
        if loop is not None:
            return self._copy_loop(node, loop, args)
        copied = self.graph.create_node(node.op, node.target, args, kwargs, node.name)
        copied.meta = dict(node.meta)
        return copied

    def _copy_loop(self, node: fx.Node, loop: RolledLoop, args: Any) -> fx.Node:
        """A loop that was captured as one."""
        described = describe_structured(f"{self.prefix}_{len(self.loops)}", node, loop, self.states)
        self.nodes[described.name] = ((node,), (node,))
        return self._call(loop.changed(name=described.name), args, described, dict(node.meta))

    def _call(self, loop: RolledLoop, arguments: Any, described: Loop, meta: dict[str, Any]) -> fx.Node:
        self.root.add_module(loop.name, loop)
        call = self.graph.call_module(loop.name, tuple(arguments))
        call.name, call.meta = loop.name, meta
        self.loops.append(described)
        return call

    def _set_mode(self, enabled: bool) -> None:
        if enabled != self.mode:
            self.graph.call_function(SET_GRAD, (enabled,))
            self.mode = enabled

    def write_static(self, node: fx.Node) -> fx.Node:
        """The value of a static node in this graph: a placeholder of a body, or a computation at the top."""
        node = self.static[node]
        if node not in self.static_nodes:
            if self.request_static is not None:
                self.static_nodes[node] = self.request_static(node)
            else:
                args, kwargs = (
                    fx.map_arg(node.args, self._size_or_static),
                    fx.map_arg(node.kwargs, self._size_or_static),
                )
                self._set_mode(bool(node.meta[GRAD_ENABLED]))
                self.static_nodes[node] = self._create(node, args, kwargs)
        return self.static_nodes[node]

    def _size_or_static(self, node: fx.Node) -> fx.Node:
        return self.sizes(node) if is_symbolic(node) else self.write_static(node)

    def _write_loop(self, index: int, item: Item, block: Block) -> None:
        found: FoundLoop = item.loop
        name = f"{self.prefix}_{len(self.loops)}"
        body = _BodyWriter(self, found, name, item, block)
        loop_module, statics = body.finish()
        arguments = [self._value(ref, block) for ref in item.args] + [self.write_static(node) for node in statics]
        self._set_mode(body.door_mode)
        meta = {"val": body.result_values(), GRAD_ENABLED: body.door_mode}
        self.calls[index] = self._call(loop_module, arguments, body.describe(name), meta)
        self.nodes[name] = found.nodes

    def _value(self, ref: Ref, block: Block) -> fx.Node:
        if ref not in self.values:
            if ref[0] < 0:
                self.values[ref] = self.write_static(block.origin[ref])
            else:
                self.values[ref] = self._take(ref, block.items[ref[0]].loop)
        return self.values[ref]

    def _take(self, ref: Ref, loop: FoundLoop) -> fx.Node:
        """A result of a loop: ``("carry", k)`` or ``("step", j, t)``."""
        slot: Any = ref[1]
        call = self.calls[ref[0]]
        kind, number, *trip = slot
        if kind == "carry":
            return self._getitem(call, number)
        every_step = self._getitem(call, loop.carry + number)
        return self._getitem(every_step, trip[0])

    def _getitem(self, source: fx.Node, index: int) -> fx.Node:
        known = [n for n in source.users if n.target is getitem and n.args[1] == index]
        if known:
            return known[0]
        taken = self.graph.call_function(getitem, (source, index))
        taken.meta = {"val": source.meta["val"][index], GRAD_ENABLED: self.mode}
        return taken


class _BodyWriter:
    """Writes the body of one loop inside its parent's graph."""

    def __init__(self, parent: _Writer, found: FoundLoop, name: str, item: Item, block: Block) -> None:
        self.found, self.block = found, found.body
        self.door_mode = bool(found.nodes[0][0].meta[GRAD_ENABLED])
        self.root = nn.Module()
        self.statics: list[fx.Node] = []
        self.writer = _Writer(self.root, parent.static, parent.states, self.door_mode, prefix=name)
        self.writer.request_static = self._add_static
        self.holders = [self._placeholder(k, self._input_name(k)) for k in range(self.block.inputs)]
        self.last_holder = self.holders[-1]
        self.writer.bind({(-1 - k, 0): holder for k, holder in enumerate(self.holders)})
        self.writer.write(self.block)
        self.name = name

    def _input_name(self, k: int) -> str:
        origin = self.block.origin[-1 - k, 0].name
        if k < self.found.carry:
            return f"carry_{origin}"
        return f"step_{origin}" if k < self.found.carry + self.found.per_step else origin

    def _placeholder(self, k: int, name: str) -> fx.Node:
        return placeholder(self.writer.graph, name, self.block.origin[-1 - k, 0].meta["val"], self.door_mode)

    def _add_static(self, node: fx.Node) -> fx.Node:
        """A weight, or what is made of weights, becomes one more invariant."""
        graph = self.writer.graph
        with graph.inserting_after(self.last_holder):
            self.last_holder = placeholder(graph, node.name, node.meta["val"], self.door_mode)
        self.statics.append(node)
        return self.last_holder

    def finish(self) -> tuple[RolledLoop, list[fx.Node]]:
        """The loop, and the static nodes that it takes after its other arguments."""
        body = finish(self.root, self.writer.graph, self.name)
        return RolledLoop(self.name, body, self.found.trip_count, self.found.carry, self.found.per_step), self.statics

    def result_values(self) -> list[Any]:
        values = [n.meta["val"] for n in self._results()]
        kept, collected = values[: self.found.carry], values[self.found.carry :]
        return kept + [[value] * self.found.trip_count for value in collected]

    def _results(self) -> list[fx.Node]:
        output = next(n for n in reversed(self.writer.graph.nodes) if n.op == "output")
        results: Any = output.args[0]
        return list(results)

    def describe(self, name: str) -> Loop:
        """The loop as data."""
        source, carry, varying = (
            loop_source(*self.found.nodes),
            self.found.carry,
            self.found.carry + self.found.per_step,
        )
        inputs = (self.holders[:carry], self.holders[carry:varying], self.holders[varying:])
        described = describe_body(name, self.found.trip_count, inputs, self._results()[carry:])
        parameters = {self.writer.states[n.name]: None for n in self.statics if n.name in self.writer.states}
        return replace(
            described,
            parameters=tuple(parameters),
            children=tuple(self._beside(child, source) for child in self.writer.loops),
            source=source,
            grad_enabled=self.door_mode,
        )

    def _beside(self, child: Loop, source: str | None) -> Loop:
        """The child, its source line its own: a ``for`` around both loops is the outer one's."""
        if child.source != source:
            return child
        return replace(child, source=parting_line(*self.writer.nodes[child.name]))
