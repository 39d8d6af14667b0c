"""Opens an outermost loop of a rolled model: its body moves up to the main graph, where one step can be cut out.

What the loop carried becomes graph inputs that the body reads as the state before the step, and that what comes after
the loop reads as the last state. What the loop collected becomes graph inputs of their own: rows of single steps, or
all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from laser_fx.errors import ExportError
from laser_fx.export.onnx_loops import loops_of

__all__ = ["Opened", "Row", "graphs_of", "open_loop", "reads", "stepped_loop"]


@dataclass(frozen=True)
class Row:
    """A value that the loop collected, as it is read after the loop.

    Args:
        value: the graph input that stands for it.
        result: what the body makes at every step.
        index: the step whose value it is, negative from the end; ``None``: those of all steps, stacked.
    """

    value: ir.Value
    result: ir.Value
    index: int | None


@dataclass
class Opened:
    """A loop, opened.

    Args:
        name: its name.
        nodes: what was its body; nodes of the main graph now.
        states: graph inputs: what was carried.
        first: what each state is before the first step.
        following: what the body makes of each state.
        by_step: graph input and what it is a row of, for values that differ by step.
        position: the graph input that is the number of the step, where the body reads it for something else.
        rows: what was collected and is read.
        records: result of the body by the name of the graph output that stacked it.
    """

    name: str
    nodes: list[ir.Node]
    states: list[ir.Value]
    first: list[ir.Value]
    following: list[ir.Value]
    by_step: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
    position: ir.Value | None = None
    rows: list[Row] = field(default_factory=list)
    records: dict[str, ir.Value] = field(default_factory=dict)


def stepped_loop(graph: ir.Graph, name: str | None = None) -> ir.Node:
    """The outermost loop whose step is cut out: the one that runs the most operators, the first of several.

    Args:
        graph: the main graph of a rolled model.
        name: of the loop, where it is known which one.

    Raises:
        ExportError: there is no loop.
    """
    loops = loops_of(graph)
    if not loops:
        raise ExportError(
            "the program has no loop whose step could be cut out",
            where="form='step'",
            fix="pass state={input: output} for a model that is one step itself, or choose form='rolled'",
        )
    return max(loops, key=_work) if name is None else next(loop for loop in loops if loop.name == name)


def _work(loop: ir.Node) -> int:
    """Operators that a loop runs, with the trips that it was traced with."""
    body = loop.attributes["body"].as_graph()
    trips = _present(loop.inputs[0]).const_value
    assert trips is not None  # a constant, or the default of an input
    inner = loops_of(body)
    return int(trips.numpy()) * (len(body) - len(inner) + sum(map(_work, inner)))


def open_loop(graph: ir.Graph, loop: ir.Node, records: tuple[str, ...]) -> Opened:
    """Move the body of a loop up, and take the loop away.

    Args:
        graph: the main graph.
        loop: a node of it.
        records: names of graph outputs that are the loop's statistics; they are graph outputs no longer.

    Raises:
        ExportError: statistics that are not those of the steps of this loop.
    """
    body = loop.attributes["body"].as_graph()
    step, _, *states = body.inputs
    _, *results = body.outputs
    nodes = list(body)
    body.outputs.clear()
    body.inputs.clear()
    body.remove(nodes)
    graph.insert_before(loop, nodes)
    graph.inputs.extend(states)
    first = [_present(value) for value in loop.inputs[2:]]
    made = Opened(str(loop.name), nodes, states, first, results[: len(states)])
    _take_records(graph, loop, made, results, records)
    _read_states(graph, loop, made)
    _read_rows(graph, loop, made, results)
    _read_by_step(graph, made, step)
    graph.remove(loop, safe=True)
    return made


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, graphs inside it too."""
    yield from (value for value in node.inputs if value is not None)
    for inner in graphs_of(node):
        for below in ir.traversal.RecursiveGraphIterator(inner):
            yield from (value for value in below.inputs if value is not None and value.graph is node.graph)
        yield from (value for value in inner.outputs if value.graph is node.graph)


def graphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    """Graphs that are attributes of a node."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _present(value: ir.Value | None) -> ir.Value:
    assert value is not None  # a Loop has no optional carried inputs
    return value


def _take_records(
    graph: ir.Graph, loop: ir.Node, made: Opened, results: list[ir.Value], records: tuple[str, ...]
) -> None:
    for value in [output for output in graph.outputs if output.name in records]:
        source = value
        while (node := source.producer()) is not None and node.op_type == "Identity":
            source = _present(node.inputs[0])
        if source.producer() is not loop:
            raise ExportError(
                f"the sites of several outermost loops are measured, and only {made.name} is run step by step: "
                f"{value.name!r} could not be looked after",
                where="form='step'",
                fix="choose form='rolled', or for frozen bases compile with measure=False",
            )
        made.records[str(value.name)] = results[loop.outputs.index(source)]
        graph.outputs.remove(value)


def _read_states(graph: ir.Graph, loop: ir.Node, made: Opened) -> None:
    for position, state in enumerate(made.states):
        _stand_in(graph, loop, loop.outputs[position], state)


def _stand_in(graph: ir.Graph, loop: ir.Node, value: ir.Value, replacement: ir.Value) -> None:
    """Read ``replacement`` wherever ``value`` is read; a graph output keeps its name, as a copy."""
    for position, output in enumerate(graph.outputs):
        if output is value:
            copy = ir.node("Identity", [value], name=f"{value.name}")
            copy.outputs[0].name, copy.outputs[0].type, copy.outputs[0].shape = value.name, value.type, value.shape
            value.name = f"{made_name(value)}.last"
            graph.insert_after(value.producer() or loop, copy)
            graph.outputs[position] = copy.outputs[0]
    ir.convenience.replace_all_uses_with(value, replacement)


def made_name(value: ir.Value) -> str:
    """A value's name; those of a written graph all have one."""
    return str(value.name)


def _read_rows(graph: ir.Graph, loop: ir.Node, made: Opened, results: list[ir.Value]) -> None:
    for position in range(len(made.states), len(results)):
        whole, result = loop.outputs[position], results[position]
        for node in [use.node for use in whole.uses()]:
            index = _index(node) if node.graph is graph and node.inputs[0] is whole else None
            if index is not None:
                made.rows.append(Row(_row(graph, node.outputs[0], result, result.shape), result, index))
                _stand_in(graph, loop, node.outputs[0], made.rows[-1].value)
                graph.remove(node, safe=True)
        if whole.uses() or whole.is_graph_output():
            shape = None if result.shape is None else ir.Shape([None, *result.shape])
            made.rows.append(Row(_row(graph, whole, result, shape), result, None))
            _stand_in(graph, loop, whole, made.rows[-1].value)


def _index(node: ir.Node) -> int | None:
    """The step that a node takes out of all steps, where it is such a node."""
    axis = node.attributes.get("axis")
    if node.op_type != "Gather" or node.domain or (axis is not None and axis.as_int() != 0):
        return None
    index = ir.convenience.get_const_tensor(_present(node.inputs[1]))
    return None if index is None or len(index.shape) else int(index.numpy())


def _row(graph: ir.Graph, read: ir.Value, result: ir.Value, shape: ir.Shape | None) -> ir.Value:
    made = ir.Value(name=f"{made_name(read)}.row", type=result.type, shape=shape)
    graph.inputs.append(made)
    return made


def _read_by_step(graph: ir.Graph, made: Opened, step: ir.Value) -> None:
    inside = set(made.nodes)
    for node in [use.node for use in step.uses()]:
        axis = node.attributes.get("axis")
        is_row = node in inside and node.op_type == "Gather" and node.inputs[1] is step
        whole = node.inputs[0] if is_row and (axis is None or axis.as_int() == 0) else None
        if whole is not None and whole.producer() not in inside and whole not in made.states:
            read = node.outputs[0]
            row = ir.Value(name=read.name, type=read.type or whole.type, shape=read.shape)
            row.meta.update(read.meta)
            graph.inputs.append(row)
            made.by_step.append((row, whole))
            ir.convenience.replace_all_uses_with(read, row)
            made.nodes.remove(node)
            graph.remove(node, safe=True)
    if step.uses():
        graph.inputs.append(step)
        made.position = step
