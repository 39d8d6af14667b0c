"""Which node of a file is meant by one that ONNX Runtime made out of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
from onnx import defs, helper

from laser_fx.export.graphs import nodes

__all__ = ["own_name", "source_of"]

_STANDARD = ("", "ai.onnx")
_INLINED = "_inlfunc_"


def source_of(model: onnx.ModelProto, operator: str) -> onnx.NodeProto | None:
    """The first node that ONNX defines as a function with that operator in it: ``Erf`` came from a ``Gelu``.

    ONNX Runtime writes such a function out where it has no kernel for the node, and the nodes it makes have no names.
    """
    versions = {entry.domain or "": entry.version for entry in model.opset_import}
    for node in nodes(model):
        if node.domain in _STANDARD and operator in _written_out(node, versions.get("", 1)):
            return node
    return None


def own_name(model: onnx.ModelProto, name: str) -> str:
    """The name that a node has in the file; ONNX Runtime puts a prefix before those of a function's nodes."""
    if not name.startswith(_INLINED):
        return name
    return max(
        (node.name for node in nodes(model) if node.name and name.endswith(f"_{node.name}")), key=len, default=name
    )


def _written_out(node: onnx.NodeProto, opset: int) -> set[str]:
    """Operators of the function that defines a node; none where it is no function."""
    if not defs.has(node.op_type, opset, ""):
        return set()
    schema: Any = defs.get_schema(node.op_type, opset, "")  # its annotations lack what is about functions
    if schema.has_function:
        return _operators(schema.function_body.node)
    made = b""
    if schema.has_context_dependent_function:
        kind = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None).SerializeToString()
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= opset)
        made = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), [kind] * len(node.input)
        )
    return _operators(onnx.FunctionProto.FromString(made).node)


def _operators(found: Iterable[onnx.NodeProto]) -> set[str]:
    return {node.op_type for node in found}
