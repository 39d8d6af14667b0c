"""Moves out of every loop what is the same at each of its steps.

A node whose inputs all come from outside of a loop's body gives the same value at every step: it is computed once,
before the loop. The unrolled graph gets this from common subexpressions; in a body a step is alone with itself.
"""

from __future__ import annotations

import onnx_ir as ir

from laser_fx.export.onnx_loops import loops_of

__all__ = ["hoist_invariants"]

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


def hoist_invariants(graph: ir.Graph) -> None:
    """Move invariant nodes out of the loops of a graph, innermost loops first.

    No number changes: the same operator sees the same values. Nodes that draw random numbers stay where they are, and
    so do nodes with graphs of their own.

    Args:
        graph: changed in place; nodes may be in any order.
    """
    for loop in loops_of(graph):
        body = loop.attributes["body"].as_graph()
        hoist_invariants(body)
        invariant = _invariant(body)
        body.remove(invariant)
        for node in invariant:
            node.name = _name_outside(str(node.name), str(loop.name))
        graph.insert_before(loop, invariant)


def _name_outside(node: str, loop: str) -> str:
    """``loop_0_0/add`` of ``loop_0/loop_0_0`` is ``loop_0/add`` before that loop."""
    around, slash, own = loop.rpartition("/")
    return around + slash + node.removeprefix(f"{own}/")


def _invariant(body: ir.Graph) -> list[ir.Node]:
    """In an order in which each comes after those that it reads."""
    body.sort()
    varying = set(body.inputs)
    found: list[ir.Node] = []
    for node in body:
        returned = any(output.is_graph_output() for output in node.outputs)
        if returned or not _may_move(node) or any(value in varying for value in node.inputs):
            varying |= set(node.outputs)
        else:
            found.append(node)
    return _worth_moving(found)


def _worth_moving(nodes: list[ir.Node]) -> list[ir.Node]:
    """Without what is made of constants alone, unless something that moves reads it.

    A runtime folds constants where they stand, and packs a weight for the product that reads it in the same graph only.
    """
    constant, needed = set[ir.Value](), set[ir.Value]()
    for node in nodes:
        if all(value is None or value.const_value is not None or value in constant for value in node.inputs):
            constant |= set(node.outputs)
    for node in reversed(nodes):
        if node.outputs[0] not in constant or needed.intersection(node.outputs):
            needed |= {value for value in (*node.inputs, *node.outputs) if value is not None}
    return [node for node in nodes if needed.intersection(node.outputs)]


def _may_move(node: ir.Node) -> bool:
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    has_graph = any(attribute.type in graphs for attribute in node.attributes.values())
    return not has_graph and not (node.domain == "" and node.op_type in _RANDOM)
