"""The operators of `laser_fx.folded_ops` as ONNX functions, see `laser_fx.export.functions`.

A product with a carried factor has no branch and no transposition of a weight; what a refresh takes is in the branch of
an ``If`` that is not taken. No product has a one-dimensional operand: ONNX Runtime fuses those into wrong numbers.
"""
# mypy: disable-error-code="no-any-return,operator,valid-type,untyped-decorator,return-value"
# These bodies are ONNX in the syntax of Python: onnxscript compiles them, Python never runs them.

from __future__ import annotations

from typing import Any

from onnxscript import FLOAT, script

from laser_fx.export.basis_functions import (
    OURS,
    captured,
    flatten,
    op,
    operator,
    power_iteration,
    rank_within,
    squares,
    trusted,
)

__all__ = ["FOLDED", "call_fold", "call_folded_linear", "call_output_linear"]

_EXACT = 4


@script(OURS, default_opset=op)
def fold(weight: FLOAT, q: FLOAT, folded: FLOAT, stats: FLOAT) -> FLOAT:
    changed = op.Greater(op.ReduceMax(op.Slice(stats, [2], [4], [0]), keepdims=0), 0.0)
    if changed:
        product = op.MatMul(op.Transpose(q, perm=[1, 0]), op.Transpose(op.Cast(weight, to=1), perm=[1, 0]))
    else:
        product = op.Identity(folded)
    return product


@script(OURS, default_opset=op)
def as_output(y: FLOAT, x: FLOAT, weight: FLOAT) -> FLOAT:
    shape = op.Concat(op.Shape(x, start=0, end=-1), op.Shape(weight, start=0, end=1), axis=0)
    return op.CastLike(op.Reshape(y, shape), x)


@script(OURS, default_opset=op)
def times_weight(x: FLOAT, weight: FLOAT) -> FLOAT:
    wide = op.Cast(weight, to=1)
    rows = op.Concat(op.Constant(value_ints=[-1]), op.Shape(wide, start=1, end=2), axis=0)
    return op.MatMul(op.Reshape(op.Cast(x, to=1), rows), op.Transpose(wide, perm=[1, 0]))


@script(OURS, default_opset=op)
def folded_linear_unbiased(x: FLOAT, weight: FLOAT, folded: FLOAT, z: FLOAT, stats: FLOAT) -> FLOAT:
    exact = op.Cast(op.Gather(stats, _EXACT, axis=0), to=9)
    if exact:
        y = times_weight(x, weight)
    else:
        y = op.MatMul(z, folded)
    return as_output(y, x, weight)


@script(OURS, default_opset=op)
def folded_linear(x: FLOAT, weight: FLOAT, bias: FLOAT, folded: FLOAT, z: FLOAT, stats: FLOAT) -> FLOAT:
    return op.Add(folded_linear_unbiased(x, weight, folded, z, stats), bias)


@script(OURS, default_opset=op)
def stats_of(measured: FLOAT, z: FLOAT, threshold: FLOAT, flags: FLOAT) -> FLOAT:
    rank = rank_within(z, measured, threshold)
    return op.Concat(op.Reshape(measured, [1]), op.Reshape(rank, [1]), flags, axis=0)


@script(OURS, default_opset=op)
def refreshed(y: FLOAT, v: FLOAT, sketch: FLOAT, threshold: FLOAT) -> tuple[FLOAT, FLOAT]:
    total = squares(y)
    tracked = trusted(power_iteration(y, v))
    tracked_z = op.MatMul(y, tracked)
    at_hand = captured(tracked_z, total)
    if at_hand >= threshold:
        basis = op.Identity(tracked)
        z = op.Identity(tracked_z)
        measured = op.Identity(at_hand)
        fresh = op.Constant(value_floats=[0.0])
    else:
        basis = trusted(power_iteration(y, power_iteration(y, sketch)))
        z = op.MatMul(y, basis)
        measured = captured(z, total)
        fresh = op.Constant(value_floats=[1.0])
    exact = op.Cast(op.Not(op.GreaterOrEqual(measured, threshold)), to=1)
    flags = op.Concat(op.Constant(value_floats=[1.0]), fresh, op.Reshape(exact, [1]), axis=0)
    return basis, stats_of(measured, z, threshold, flags)


@script(OURS, default_opset=op)
def output_linear_unbiased(
    x: FLOAT, weight: FLOAT, v: FLOAT, down: FLOAT, error: FLOAT, sketch: FLOAT, probes: FLOAT, threshold: FLOAT
) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT]:
    flat = flatten(x, down)
    z = op.MatMul(flat, down)
    total = op.Add(squares(z), squares(op.MatMul(flat, error)))
    at_hand = captured(z, total)
    if at_hand >= threshold:
        y = op.MatMul(z, op.Transpose(v, perm=[1, 0]))
        basis = op.Identity(v)
        product = op.Identity(down)
        lost = op.Identity(error)
        stats = stats_of(at_hand, z, threshold, op.Constant(value_floats=[0.0, 0.0, 0.0]))
    else:
        y = times_weight(x, weight)
        basis, stats = refreshed(y, v, sketch, threshold)
        turned = op.Transpose(op.Cast(weight, to=1), perm=[1, 0])
        product = op.MatMul(turned, basis)
        left = op.MatMul(product, op.MatMul(op.Transpose(basis, perm=[1, 0]), probes))
        count = op.Cast(op.Shape(probes, start=1, end=2), to=1)
        lost = op.Div(op.Sub(op.MatMul(turned, probes), left), op.Sqrt(count))
    return as_output(y, x, weight), basis, product, lost, stats


@script(OURS, default_opset=op)
def output_linear(
    x: FLOAT,
    weight: FLOAT,
    bias: FLOAT,
    v: FLOAT,
    down: FLOAT,
    error: FLOAT,
    sketch: FLOAT,
    probes: FLOAT,
    threshold: FLOAT,
) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT]:
    y, basis, product, lost, stats = output_linear_unbiased(x, weight, v, down, error, sketch, probes, threshold)
    return op.Add(y, bias), basis, product, lost, stats


FOLDED = (
    fold,
    as_output,
    times_weight,
    folded_linear_unbiased,
    folded_linear,
    stats_of,
    refreshed,
    output_linear_unbiased,
    output_linear,
)
"""Every function of this file."""


def call_fold(weight: Any, q: Any, folded: Any, stats: Any) -> Any:
    """A call of ``laser_fx.fold``, for torch's exporter."""
    return operator("fold", 4, 1)(weight, q, folded, stats)


def call_folded_linear(x: Any, weight: Any, bias: Any, folded: Any, z: Any, stats: Any) -> Any:
    """A call of ``laser_fx.folded_linear``, for torch's exporter; another function where there is no bias."""
    if bias is None:
        return operator("folded_linear_unbiased", 5, 1)(x, weight, folded, z, stats)
    return operator("folded_linear", 6, 1)(x, weight, bias, folded, z, stats)


def call_output_linear(x: Any, weight: Any, bias: Any, *state: Any) -> Any:
    """A call of ``laser_fx.output_linear``, for torch's exporter; another function where there is no bias."""
    if bias is None:
        return operator("output_linear_unbiased", 8, 5)(x, weight, *state)
    return operator("output_linear", 9, 5)(x, weight, bias, *state)
