"""Works round defects of ONNX Runtime that give wrong numbers without a word."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["make_vectors_columns"]


def make_vectors_columns(model: ir.Model) -> None:
    """Every ``MatMul`` by a vector becomes one by a column, squeezed afterwards.

    ONNX Runtime (seen in 1.31) fuses ``Transpose`` and ``MatMul`` by a one-dimensional operand into a wrong product, at
    ORT_ENABLE_EXTENDED and above. With a column it fuses them rightly.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type == "MatMul" and _rank(node.inputs[1]) == 1:
            _use_column(node)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else value.shape.rank()


def _use_column(node: ir.Node) -> None:
    graph, (product,) = node.graph, node.outputs
    assert graph is not None  # every node that `all_nodes` gives is in a graph
    axis = ir.node("Constant", [], {"value": ir.tensor(np.array([-1], np.int64))}, name=f"{node.name}/axis")
    column = ir.node("Unsqueeze", [node.inputs[1], axis.outputs[0]], name=f"{node.name}/column")
    squeezed = ir.node("Squeeze", [product, axis.outputs[0]], name=f"{node.name}/squeeze")
    squeezed.outputs[0].type, squeezed.outputs[0].shape = product.type, product.shape
    for made in (axis, column, squeezed):
        made.outputs[0].name = f"{product.name}.{made.op_type}"
    product.shape = None
    ir.convenience.replace_all_uses_with(product, squeezed.outputs[0], replace_graph_outputs=True)
    squeezed.replace_input_with(0, product)
    node.replace_input_with(1, column.outputs[0])
    graph.insert_before(node, [axis, column])
    graph.insert_after(node, squeezed)
