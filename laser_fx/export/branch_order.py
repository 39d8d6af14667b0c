"""Functions of onnxscript for a model: the results of every ``If`` get one order and one set of names.

onnxscript writes the variables that both branches assign in the order of a set, which differs from process to process:
the same program would give other bytes every time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

__all__ = ["order_branches", "written"]


def written(scripts: Iterable[Any], opset: int) -> list[ir.Function]:
    """Functions of onnxscript as onnx-ir has them, the same in every process.

    The checker takes no function of another opset than the model's whose operators have a newer version there; those
    that are used here got more dtypes since 20, and no other meaning.
    """
    made = [order_branches(ir.serde.deserialize_function(script.to_function_proto())) for script in scripts]
    for function in made:
        function.opset_imports[""] = opset
    return made


def order_branches(function: ir.Function) -> ir.Function:
    """The function with the results of each ``If`` in the order of their names in its first branch, and named so."""
    for node in function.all_nodes():
        if node.op_type == "If" and node.domain == "":
            _order(node)
    return function


def _order(node: ir.Node) -> None:
    branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
    names = [str(value.name) for value in branches[0].outputs]
    order = sorted(range(len(names)), key=names.__getitem__)
    results = list(node.outputs)
    uses = [list(result.uses()) for result in results]
    returned = [[(graph, at) for graph, at in _returns(node, result)] for result in results]
    for branch in branches:
        branch.outputs[:] = [branch.outputs[index] for index in order]
    for result, old in zip(results, order, strict=True):
        result.name, result.type, result.shape = f"{names[old]}.{node.name}", None, None
        for user, at in uses[old]:
            user.replace_input_with(at, result)
        for graph, at in returned[old]:
            graph.outputs[at] = result


def _returns(node: ir.Node, value: ir.Value) -> list[tuple[ir.Graph | ir.Function, int]]:
    """Where the graph around a node returns a value of it."""
    around = node.graph
    assert around is not None  # a node of a function is in its graph, or in one inside
    return [(around, at) for at, output in enumerate(around.outputs) if output is value]
