"""Loops as calls: every ``Loop`` of a constant trip count becomes calls, in sequence, of one ONNX function, its body.

The file stays small, since a body is written once, and no condition is read at run time. ONNX Runtime inlines functions
when it loads a file, so it loads as slowly as an unrolled one. A function sees nothing of the outside: weights that a
body reads are inputs of it, and its small constants are nodes of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from laser_fx.errors import ExportError
from laser_fx.export.onnx_loops import loops_of

__all__ = ["BODY_DOMAIN", "BODY_VERSION", "call_bodies"]

BODY_DOMAIN = "laser_fx.body"
BODY_VERSION = 1
_MOST_BYTES = 1024
"""Constants up to this size are written into the functions that read them; larger ones are inputs."""


def call_bodies(model: ir.Model, graph: ir.Graph | None = None) -> None:
    """Replace every loop of a graph, and every loop inside its body first, by calls of functions.

    Args:
        model: gets the functions; loops stand in the domain ``laser_fx.body`` under their own names.
        graph: a graph of the model; the main graph by default.

    Raises:
        ExportError: a trip count that is not a constant.
    """
    outer = model.graph if graph is None else graph
    for loop in loops_of(outer):
        call_bodies(model, loop.attributes["body"].as_graph())
        _Calls(model, outer, loop).replace()
    model.opset_imports.setdefault(BODY_DOMAIN, BODY_VERSION)


class _Calls:
    """The calls that replace one loop."""

    def __init__(self, model: ir.Model, outer: ir.Graph, loop: ir.Node) -> None:
        self.model, self.outer, self.loop = model, outer, loop
        self.body = loop.attributes["body"].as_graph()
        self.carry_count = len(loop.inputs) - 2
        self.name = str(loop.name).rpartition("/")[2]

    def replace(self) -> None:
        trips = self._trips()
        step, go_on, *carry = self.body.inputs
        captured = _captured(self.body)
        constants = [value for value in captured if _is_small_constant(value)]
        invariants = [value for value in captured if value not in constants]
        results = list(self.body.outputs)[1:]
        counts = bool(step.uses())
        calls = self._calls(trips, invariants, results, counts)
        self._define([*carry, *([step] if counts else [])], invariants, constants, results, go_on)
        self._connect(calls)

    def _trips(self) -> int:
        count = self.loop.inputs[0]
        if count is None or count.const_value is None or count.is_graph_input():
            raise ExportError(
                "the trip count is not a constant", where=str(self.loop.name), fix="export with depth_inputs=False"
            )
        return int(count.const_value.numpy())

    def _calls(
        self, trips: int, invariants: Sequence[ir.Value], results: Sequence[ir.Value], counts: bool
    ) -> list[ir.Node]:
        carry, calls = list(self.loop.inputs[2:]), list[ir.Node]()
        for step in range(trips):
            position = [self._position(step)] if counts else []
            call = ir.Node(
                BODY_DOMAIN,
                self.name,
                [*carry, *position, *invariants],
                num_outputs=len(results),
                name=f"{self.loop.name}/{step}",
            )
            for number, (output, result) in enumerate(zip(call.outputs, results, strict=True)):
                output.name, output.type = f"{call.name}.{number}", result.type
            carry = list(call.outputs[: self.carry_count])
            calls.append(call)
        return calls

    def _position(self, step: int) -> ir.Value:
        """The number of a step, as an initializer of the main graph."""
        return _initializer(self.model, f"step_{step}", np.array(step, np.int64))

    def _define(
        self,
        varying: Sequence[ir.Value],
        invariants: Sequence[ir.Value],
        constants: Sequence[ir.Value],
        results: Sequence[ir.Value],
        go_on: ir.Value,
    ) -> None:
        inputs = [_like(value, value.name) for value in (*varying, *invariants)]
        written = [_constant_node(value) for value in constants]
        known = dict(zip((*varying, *invariants), inputs, strict=True))
        known |= {value: node.outputs[0] for value, node in zip(constants, written, strict=True)}
        nodes = [node for node in self.body if go_on not in node.inputs]
        self.body.outputs.clear()
        self.body.remove(list(self.body))
        _replace_inputs(nodes, known)
        graph = ir.Graph(
            inputs,
            list(results),
            nodes=[*written, *nodes],
            opset_imports={**self.model.opset_imports, BODY_DOMAIN: BODY_VERSION},
            name=self.name,
        )
        function = ir.Function(BODY_DOMAIN, self.name, graph=graph, attributes=[])
        self.model.functions[function.identifier()] = function

    def _connect(self, calls: Sequence[ir.Node]) -> None:
        """What reads the loop reads its calls instead."""
        added: list[ir.Node] = [*calls]
        for position, output in enumerate(self.loop.outputs):
            steps = [call.outputs[position] for call in calls]
            if position < self.carry_count:
                final = steps[-1]
            else:
                added += self._take_steps(output, steps)
                stacked, nodes = self._stacked(output, steps) if _is_read(output) else (steps[-1], [])
                final, added = stacked, [*added, *nodes]
            if output.is_graph_output():
                final.name, final.type, final.shape = output.name, output.type, output.shape
            ir.convenience.replace_all_uses_with(output, final, replace_graph_outputs=True)
        self.outer.insert_before(self.loop, added)
        self.outer.remove(self.loop, safe=True)

    def _take_steps(self, whole: ir.Value, steps: Sequence[ir.Value]) -> list[ir.Node]:
        """A reader of one step reads that step, and no stack is made for it."""
        copies = []
        for node in [use.node for use in whole.uses()]:
            index = _gathered_index(node)
            if index is not None:
                copies.append(self._read_step(node, steps[index]))
        return copies

    def _read_step(self, gather: ir.Node, step: ir.Value) -> ir.Node:
        read = gather.outputs[0]
        copy = ir.node("Identity", [step], name=gather.name)
        copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = read.name, read.type, read.shape
        ir.convenience.replace_all_uses_with(read, copy.outputs[0], replace_graph_outputs=True)
        self.outer.remove(gather, safe=True)
        return copy

    def _stacked(self, whole: ir.Value, steps: Sequence[ir.Value]) -> tuple[ir.Value, list[ir.Node]]:
        axis = _initializer(self.model, "front", np.array([0], np.int64))
        rows = [ir.node("Unsqueeze", [value, axis], name=f"{value.name}/row") for value in steps]
        for row in rows:
            row.outputs[0].name = row.name
        joined = ir.node("Concat", [row.outputs[0] for row in rows], {"axis": 0}, name=str(whole.name))
        joined.outputs[0].name, joined.outputs[0].type, joined.outputs[0].shape = joined.name, whole.type, whole.shape
        return joined.outputs[0], [*rows, joined]


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """What a graph, or one inside it, reads and does not make, in the order of reading."""
    made, read = set[ir.Value](), dict[ir.Value, None]()
    for inner in (graph, *graph.subgraphs()):
        made |= {*inner.inputs, *(output for node in inner for output in node.outputs)}
        read |= dict.fromkeys(value for node in inner for value in node.inputs if value is not None)
        read |= dict.fromkeys(inner.outputs)
    return [value for value in read if value not in made]


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


def _gathered_index(node: ir.Node) -> int | None:
    """The step that a ``Gather`` along the steps takes."""
    index = node.inputs[1] if node.op_type == "Gather" and len(node.inputs) == 2 else None
    if index is None or index.const_value is None or index.const_value.numpy().shape != ():
        return None
    return int(index.const_value.numpy()) if node.attributes.get_int("axis", 0) == 0 else None


def _is_small_constant(value: ir.Value) -> bool:
    """Not an initializer of the model's: those are weights, to be stored once."""
    content = value.const_value
    if content is None or value.is_graph_input() or isinstance(content, ir.tensor_adapters.TorchTensor):
        return False
    return content.nbytes <= _MOST_BYTES


def _constant_node(value: ir.Value) -> ir.Node:
    assert value.const_value is not None
    node = ir.node("Constant", [], {"value": value.const_value}, name=value.name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = value.name, value.type, value.shape
    return node


def _initializer(model: ir.Model, name: str, content: npt.NDArray[Any]) -> ir.Value:
    if name not in model.graph.initializers:
        tensor = ir.tensor(content, name=name)
        shape = ir.Shape(content.shape)
        model.graph.initializers.add(
            ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        )
    return model.graph.initializers[name]


def _like(value: ir.Value, name: str | None) -> ir.Value:
    return ir.Value(name=name, type=value.type, shape=value.shape)


def _replace_inputs(nodes: Iterable[ir.Node], known: dict[ir.Value, ir.Value]) -> None:
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value in known:
                node.replace_input_with(index, known[value])
        for attribute in node.attributes.values():
            for graph in _graphs(attribute):
                _replace_inputs(graph, known)
                for index, value in enumerate(graph.outputs):
                    if value in known:
                        graph.outputs[index] = known[value]


def _graphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []
