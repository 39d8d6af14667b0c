"""The operators of ONNX that files of ours are made of: what ONNX Runtime has to compute rightly."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["OPERATORS", "unlisted"]

_OWN = ("laser_fx", "laser_fx.body")
"""Domains of functions that a file brings along; what they are made of is in it too."""

# fmt: off
OPERATORS = frozenset((
    "Abs", "Add", "And", "ArgMax", "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "Conv",
    "CumSum", "Div", "Equal", "Expand", "EyeLike", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "Greater", "GreaterOrEqual", "GridSample", "Identity", "If", "IsNaN", "LayerNormalization", "Less",
    "LessOrEqual", "Loop", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Not", "Or", "Pow", "Range",
    "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu",
    "Reshape", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub",
    "Tanh", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
))
# fmt: on


def unlisted(found: Iterable[tuple[str, str]]) -> set[str]:
    """Those among (domain, name) that have to be listed here, so that the node tests of ONNX are run for them.

    >>> unlisted([("", "Add"), ("laser_fx", "track"), ("", "Fancy")])
    {'Fancy'}
    """
    return {f"{domain}::{name}" if domain else name for domain, name in found if domain not in _OWN} - OPERATORS
