"""Rewrites what torch's exporter writes in many small steps into what a runtime knows as one.

Two forms stand in every block of a transformer: the keys, transposed through two reshapes whose sizes are read at run
time, and the root mean square norm, by a reciprocal and without a scale. Both are written as ONNX Runtime fuses them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

__all__ = ["simplify"]

_END = 2**63 - 1


def simplify(model: ir.Model) -> None:
    """Apply the rules to a translated part, in place. Values change by rounding at most."""
    _RULES.apply_to_model(model)


def _keys(op: Any, x: Any, front: Any, rows: Any, columns: Any, joined: Any) -> Any:
    flat = op.Reshape(x, op.Concat(joined, rows, columns, axis=0))
    return op.Reshape(op.Transpose(flat, perm=[0, 2, 1]), op.Concat(front, columns, rows, axis=0))


def _are_keys(
    context: Any, x: ir.Value, front: ir.Value, rows: ir.Value, columns: ir.Value, joined: ir.Value, **_: Any
) -> bool:
    """Whether the sizes are those of ``x`` itself, of rank 4."""
    if x.shape is None or x.shape.rank() != 4 or _content(joined) != [-1]:
        return False
    slices = [_slice_of(size, x) for size in (front, rows, columns)]
    return slices[0] is not None and slices[0][0] <= -4 and slices[0][1] == -2 and slices[1:] == [(-2, -1), (-1, _END)]


def _transposed(op: Any, x: Any, **_: Any) -> Any:
    return op.Transpose(x, perm=[0, 1, 3, 2])


def _slice_of(size: ir.Value, x: ir.Value) -> tuple[int, int] | None:
    """Start and end of a slice of the shape of ``x``."""
    cut = size.producer()
    shape = None if cut is None or cut.op_type != "Slice" or len(cut.inputs) != 3 else cut.inputs[0]
    source = None if shape is None else shape.producer()
    if cut is None or source is None or source.op_type != "Shape" or source.inputs[0] is not x:
        return None
    if source.attributes.get_int("start", 0) != 0 or "end" in source.attributes:
        return None
    start, end = _content(cut.inputs[1]), _content(cut.inputs[2])
    return None if start is None or end is None else (int(start[0]), int(end[0]))


def _content(value: ir.Value | None) -> list[Any] | None:
    stored = None if value is None else ir.convenience.get_const_tensor(value)
    return None if stored is None else stored.numpy().reshape(-1).tolist()


def _norm(op: Any, x: Any, two: Any, axes: Any, epsilon: Any) -> Any:
    square = op.ReduceMean(op.Pow(x, two), axes, keepdims=1)
    return op.Mul(x, op.Reciprocal(op.Sqrt(op.Add(square, epsilon))))


def _is_norm(_: Any, x: ir.Value, two: ir.Value, axes: ir.Value, epsilon: ir.Value, **__: Any) -> bool:
    """Whether it is over the last dimension, whose size is known."""
    if x.shape is None or x.dtype is not ir.DataType.FLOAT or not isinstance(x.shape[-1], int):
        return False
    return _content(two) == [2.0] and _content(axes) in ([-1], [x.shape.rank() - 1]) and _is_scalar(epsilon)


def _is_scalar(value: ir.Value) -> bool:
    content = _content(value)
    return content is not None and len(content) == 1


def _scaled_norm(op: Any, x: ir.Value, two: Any, axes: Any, epsilon: Any, **_: Any) -> Any:
    assert x.shape is not None
    square = op.ReduceMean(op.Pow(x, two), axes, keepdims=1)
    ones = op.Constant(value=ir.tensor(np.ones(int(x.shape[-1]), np.float32)))  # type: ignore[arg-type]
    return op.Mul(op.Div(x, op.Sqrt(op.Add(square, epsilon))), ones)


_RULES = pattern.RewriteRuleSet(
    [pattern.RewriteRule(_keys, _transposed, _are_keys), pattern.RewriteRule(_norm, _scaled_norm, _is_norm)]
)
