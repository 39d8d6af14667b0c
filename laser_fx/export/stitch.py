"""Stitches translated levels together: every loop call becomes one ONNX ``Loop`` node around its body.

Weights and other invariants are captured from the outer scope by name, so each is stored once whatever loop reads it.
A step output becomes a scan output; one step's value is gathered from it, so «the last step» holds at any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx

from laser_fx.errors import ExportError
from laser_fx.export.early_sizes import read_sizes_early
from laser_fx.export.straight import cut, loop_of, results_of
from laser_fx.rolled import RolledLoop

__all__ = ["SIZES", "Stitcher", "shape_of", "value_like"]

SIZES = "laser_fx.sizes"
"""Key of a value's ``meta``: its sizes as the program has them, where symbols of the whole program are told apart."""

_DTYPES = {
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.bool: ir.DataType.BOOL,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.int16: ir.DataType.INT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
}


class Stitcher:
    """Turns levels into ONNX nodes, and collects what belongs to the whole model.

    Args:
        translate: a straight-line graph to an ONNX model.
        trips: trip counts that are inputs of the model, by loop name; all others are constants.

    Attributes:
        constants: initializers of the main graph, shared by content.
        functions: model-local functions that the parts brought along.
        opset_imports: versions that the parts were written in.
    """

    def __init__(self, translate: Callable[[fx.GraphModule], ir.Model], trips: Mapping[str, ir.Value]) -> None:
        self._translate = translate
        self._trips = trips
        self._contents: dict[tuple[Any, ...], ir.Value] = {}
        self.functions: dict[Any, ir.Function] = {}
        self.opset_imports: dict[str, int] = {}

    @property
    def constants(self) -> list[ir.Value]:
        return list(self._contents.values())

    def level(
        self, module: fx.GraphModule, arguments: list[ir.Value | None], prefix: str = ""
    ) -> tuple[list[ir.Node], list[ir.Value]]:
        """Nodes and results of one level, loops inside it included; nodes are in no order.

        Args:
            module: a level of a rolled graph.
            arguments: what its placeholders stand for; ``None`` for one that nothing reads.
            prefix: put before the names of values and nodes.
        """
        level = cut(module)
        placeholders = module.graph.find_nodes(op="placeholder")
        known: dict[fx.Node, ir.Value | None] = dict(zip(placeholders, arguments, strict=True))
        nodes: list[ir.Node] = []
        if level.outputs:
            part = self._adopt(self._translate(level.straight), prefix)
            read_sizes_early(part, level.inputs)
            known |= zip(level.outputs, part.outputs, strict=True)
            for node, value in zip(level.outputs, part.outputs, strict=True):
                _mark(value, node.meta.get("val"))
        for node in level.opaque:
            nodes += self._opaque(node, known, prefix)
        if level.outputs:
            for node, value in zip(level.inputs, list(part.inputs), strict=True):
                ir.convenience.replace_all_uses_with(value, _present(known, node), replace_graph_outputs=True)
            nodes += _taken_out(part)
        return nodes, [_present(known, _node(result)) for result in results_of(module)]

    def constant(self, content: np.ndarray[Any, Any] | ir.TensorProtocol) -> ir.Value:
        """An initializer of the main graph with this content."""
        array = content if isinstance(content, np.ndarray) else content.numpy()
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._contents:
            name = f"constant_{len(self._contents)}"
            tensor = ir.tensor(array, name=name)
            self._contents[key] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
        return self._contents[key]

    def _adopt(self, model: ir.Model, prefix: str) -> ir.Graph:
        """A part's graph with unique names, its constants and functions handed over to the whole model."""
        graph = model.graph
        for name in list(graph.initializers):
            value = graph.initializers.pop(name)
            assert value.const_value is not None  # parts have weights as inputs: these are constants
            shared = self.constant(value.const_value)
            ir.convenience.replace_all_uses_with(value, shared, replace_graph_outputs=True)
        _own_outputs(graph)
        for node in graph.all_nodes():
            node.name = f"{prefix}{node.name}"
            for output in node.outputs:
                output.name = f"{prefix}{output.name}"
                output.metadata_props.clear()
                output.shape = _static_only(output.shape)
        self.functions |= model.functions
        self.opset_imports |= graph.opset_imports
        return graph

    def _opaque(self, node: fx.Node, known: dict[fx.Node, ir.Value | None], prefix: str) -> list[ir.Node]:
        loop = loop_of(node)
        if loop is not None:
            return self._loop(node, loop, known, prefix)
        source, index = _node(node.args[0]), node.args[1]
        if source.op == "call_module":
            return []  # `_loop` has set it
        gather = ir.node("Gather", [_present(known, source), self.constant(np.array(index, np.int64))], {"axis": 0})
        known[node] = _named(gather, f"{prefix}{node.name}", node.meta.get("val"))
        return [gather]

    def _loop(
        self, call: fx.Node, loop: RolledLoop, known: dict[fx.Node, ir.Value | None], prefix: str
    ) -> list[ir.Node]:
        arguments = [_node(argument) for argument in call.args]
        varying = [_present(known, argument) for argument in arguments[: loop.varying_arguments]]
        carry, streams = varying[: loop.carry_count], varying[loop.carry_count :]
        first_stacked = len(streams) - loop.stacked_count
        stacked, nodes = self._stack(loop, streams[:first_stacked])
        invariants = [known[argument] for argument in arguments[loop.varying_arguments :]]
        body = self._body(loop, [*stacked, *streams[first_stacked:]], invariants)
        count = self._trips.get(loop.name) or self.constant(np.array(loop.trip_count, np.int64))
        node = ir.Node(
            "",
            "Loop",
            [count, self.constant(np.array(True)), *carry],
            [ir.AttrGraph("body", body)],
            num_outputs=len(body.outputs) - 1,
            name=f"{prefix}{loop.name}",
        )
        for position, output in enumerate(node.outputs):
            output.name = f"{prefix}{loop.name}.{position}"
            inner = body.outputs[position + 1]
            output.type = inner.type
            output.shape = inner.shape if position < loop.carry_count else _in_front(inner.shape)
        for user in call.users:
            known[user] = node.outputs[int(user.args[1])]  # type: ignore[arg-type]
        return [*nodes, node]

    def _stack(self, loop: RolledLoop, values: list[ir.Value]) -> tuple[list[ir.Value], list[ir.Node]]:
        """Each per-step value as one tensor with the steps in front."""
        axis, nodes, stacked = self.constant(np.array([0], np.int64)), [], []
        for position in range(loop.per_step_count):
            steps = values[position * loop.trip_count : (position + 1) * loop.trip_count]
            rows = [ir.node("Unsqueeze", [value, axis]) for value in steps]
            joined = ir.node("Concat", [row.outputs[0] for row in rows], {"axis": 0})
            for number, (row, value) in enumerate(zip(rows, steps, strict=True)):
                made = _named(row, f"{loop.name}.per_step_{position}.{number}")
                made.type, made.shape = value.type, None if value.shape is None else ir.Shape([1, *value.shape])
            stacked.append(_named(joined, f"{loop.name}.per_step_{position}"))
            stacked[-1].type, shape = steps[0].type, steps[0].shape
            stacked[-1].shape = None if shape is None else ir.Shape([len(steps), *shape])
            nodes += [*rows, joined]
        return stacked, nodes

    def _body(self, loop: RolledLoop, stacked: list[ir.Value], invariants: list[ir.Value | None]) -> ir.Graph:
        prefix = f"{loop.name}/"
        step = ir.Value(name=f"{prefix}step", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
        go_on = ir.Value(name=f"{prefix}go_on", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
        placeholders = loop.body.graph.find_nodes(op="placeholder")
        first = placeholders[: loop.carry_count]
        carry = [value_like(p.meta["val"], f"{prefix}{p.name}", static=True) for p in first]
        gathers = [ir.node("Gather", [whole, step], {"axis": 0}) for whole in stacked]
        per_step = [_named(g, f"{prefix}per_step_{position}") for position, g in enumerate(gathers)]
        for value, placeholder in zip(per_step, placeholders[loop.carry_count :], strict=False):
            _describe(value, placeholder.meta["val"])
        nodes, results = self.level(loop.body, [*carry, *per_step, *invariants], prefix)
        outputs, copies = own_values([go_on, *results], {step, go_on, *carry}, [*gathers, *nodes], prefix)
        graph = ir.Graph([step, go_on, *carry], outputs, nodes=[*gathers, *nodes, *copies], name=f"{loop.name}_body")
        for output, result in zip(outputs[1:], results_of(loop.body), strict=True):
            _describe(output, result.meta.get("val"))
        return graph


def own_values(
    values: list[ir.Value], inputs: set[ir.Value], nodes: list[ir.Node], prefix: str
) -> tuple[list[ir.Value], list[ir.Node]]:
    """Values that a graph may return: what its nodes do not make, or what is returned already, is copied."""
    made = {output for node in nodes for output in node.outputs}
    outputs: list[ir.Value] = []
    copies: list[ir.Node] = []
    for position, value in enumerate(values):
        if value not in made or value in outputs or value in inputs:
            copies.append(ir.node("Identity", [value], name=f"{prefix}result_{position}"))
            copy = copies[-1].outputs[0]
            copy.name, copy.type, copy.shape = f"{prefix}result_{position}", value.type, value.shape
            value = copy
        outputs.append(value)
    return outputs, copies


def value_like(value: Tensor, name: str, *, static: bool = False) -> ir.Value:
    """A graph input for a (fake) tensor. ``static``: sizes that are symbols stay open."""
    shape = shape_of(value)
    made = ir.Value(
        name=name, type=ir.TensorType(_dtype(value.dtype, name)), shape=_static_only(shape) if static else shape
    )
    _mark(made, value)
    return made


def shape_of(value: Tensor) -> ir.Shape:
    """Shape with symbols by name."""
    return ir.Shape([size if type(size) is int else str(size) for size in value.shape])


def _dtype(dtype: torch.dtype, name: str) -> ir.DataType:
    if dtype not in _DTYPES:
        raise ExportError(f"ONNX has no {dtype}", where=name, fix="cast the tensor in the model")
    return _DTYPES[dtype]


def _static_only(shape: ir.Shape | None) -> ir.Shape | None:
    """Symbols of different parts have nothing to do with each other, even where their names agree."""
    return None if shape is None else ir.Shape([size if isinstance(size, int) else None for size in shape])


def _mark(value: ir.Value, like: object) -> None:
    if isinstance(like, Tensor):
        value.meta[SIZES] = tuple(str(size) for size in like.shape)


def _in_front(shape: ir.Shape | None) -> ir.Shape | None:
    """The shape of all steps stacked: how many there are stays open."""
    return None if shape is None else ir.Shape([None, *shape])


def _describe(value: ir.Value, like: object) -> None:
    _mark(value, like)
    if isinstance(like, Tensor):
        value.type = ir.TensorType(_dtype(like.dtype, str(value.name)))
        value.shape = _static_only(shape_of(like))


def _named(node: ir.Node, name: str, like: object = None) -> ir.Value:
    node.name = node.outputs[0].name = name
    _describe(node.outputs[0], like)
    return node.outputs[0]


def _own_outputs(graph: ir.Graph) -> None:
    """A result that is an input of the part, such as a no-op view of it, is copied: inputs are about to be replaced."""
    for position, value in enumerate(graph.outputs):
        if value in graph.inputs:
            copy = ir.node("Identity", [value], name=f"copy_{position}")
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = copy.name, value.type, value.shape
            graph.append(copy)
            graph.outputs[position] = copy.outputs[0]


def _taken_out(graph: ir.Graph) -> list[ir.Node]:
    nodes = list(graph)
    graph.outputs.clear()
    graph.remove(nodes)
    return nodes


def _node(argument: object) -> fx.Node:
    if not isinstance(argument, fx.Node):
        raise ExportError(f"{argument!r} is not a tensor of the graph", fix="make it a tensor in the model")
    return argument


def _present(known: Mapping[fx.Node, ir.Value | None], node: fx.Node) -> ir.Value:
    value = known.get(node)
    if value is None:
        raise ExportError("a value is read that nothing makes", where=node.name, fix="report this graph as a defect")
    return value
