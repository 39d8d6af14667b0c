"""The loops of an ONNX graph, as rewrites look for them."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["loops_of"]


def loops_of(graph: ir.Graph) -> list[ir.Node]:
    """Every ``Loop`` of a graph that is in no other, in order.

    >>> loops_of(ir.Graph([], [], nodes=[]))
    []
    """
    return [node for node in graph if node.op_type == "Loop" and node.domain == ""]
