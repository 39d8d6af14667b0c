"""What a step does at a site whose basis stays as it is, as ONNX functions without a branch; and what refreshes it.

A held step measures its basis and computes through it, whatever it measures: the host looks at the fidelity, and runs a
step again that fell below it. No product has a one-dimensional operand: ONNX Runtime fuses those into wrong numbers.
"""
# mypy: disable-error-code="no-any-return,operator,valid-type,untyped-decorator,return-value"
# These bodies are ONNX in the syntax of Python: onnxscript compiles them, Python never runs them.

from __future__ import annotations

import onnx_ir as ir
from onnxscript import FLOAT, script

from laser_fx.export.basis_functions import OURS, captured, flatten, op, squares
from laser_fx.export.branch_order import written
from laser_fx.export.folded_functions import as_output, refreshed, stats_of, times_weight

__all__ = ["held_functions"]


@script(OURS, default_opset=op)
def measure(x: FLOAT, q: FLOAT) -> tuple[FLOAT, FLOAT]:
    z = op.MatMul(flatten(x, q), q)
    return z, captured(z, squares(x))


@script(OURS, default_opset=op)
def held_stats(z: FLOAT, measured: FLOAT, threshold: FLOAT) -> FLOAT:
    return stats_of(measured, z, threshold, op.Constant(value_floats=[0.0, 0.0, 0.0]))


@script(OURS, default_opset=op)
def held_linear_unbiased(x: FLOAT, folded: FLOAT, z: FLOAT) -> FLOAT:
    shape = op.Concat(op.Shape(x, start=0, end=-1), op.Shape(folded, start=1, end=2), axis=0)
    return op.CastLike(op.Reshape(op.MatMul(z, folded), shape), x)


@script(OURS, default_opset=op)
def held_linear(x: FLOAT, bias: FLOAT, folded: FLOAT, z: FLOAT) -> FLOAT:
    return op.Add(held_linear_unbiased(x, folded, z), bias)


@script(OURS, default_opset=op)
def held_output_linear_unbiased(x: FLOAT, v: FLOAT, down: FLOAT, error: FLOAT, threshold: FLOAT) -> tuple[FLOAT, FLOAT]:
    flat = flatten(x, down)
    z = op.MatMul(flat, down)
    measured = captured(z, op.Add(squares(z), squares(op.MatMul(flat, error))))
    turned = op.Transpose(v, perm=[1, 0])
    return held_linear_unbiased(x, turned, z), held_stats(z, measured, threshold)


@script(OURS, default_opset=op)
def held_output_linear(
    x: FLOAT, bias: FLOAT, v: FLOAT, down: FLOAT, error: FLOAT, threshold: FLOAT
) -> tuple[FLOAT, FLOAT]:
    y, stats = held_output_linear_unbiased(x, v, down, error, threshold)
    return op.Add(y, bias), stats


@script(OURS, default_opset=op)
def refresh_output_linear_unbiased(
    x: FLOAT,
    weight: FLOAT,
    v: FLOAT,
    down: FLOAT,
    error: FLOAT,
    sketch: FLOAT,
    probes: FLOAT,
    threshold: FLOAT,
    keep_at: FLOAT,
) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT]:
    kept, kept_stats = held_output_linear_unbiased(x, v, down, error, threshold)
    if op.Gather(kept_stats, 0, axis=0) >= keep_at:
        output = op.Identity(kept)
        basis = op.Identity(v)
        product = op.Identity(down)
        lost = op.Identity(error)
        stats = op.Identity(kept_stats)
    else:
        y = times_weight(x, weight)
        basis, stats = refreshed(y, v, sketch, threshold)
        turned = op.Transpose(op.Cast(weight, to=1), perm=[1, 0])
        product = op.MatMul(turned, basis)
        left = op.MatMul(product, op.MatMul(op.Transpose(basis, perm=[1, 0]), probes))
        count = op.Cast(op.Shape(probes, start=1, end=2), to=1)
        lost = op.Div(op.Sub(op.MatMul(turned, probes), left), op.Sqrt(count))
        output = as_output(y, x, weight)
    return output, basis, product, lost, stats


@script(OURS, default_opset=op)
def refresh_output_linear(
    x: FLOAT,
    weight: FLOAT,
    bias: FLOAT,
    v: FLOAT,
    down: FLOAT,
    error: FLOAT,
    sketch: FLOAT,
    probes: FLOAT,
    threshold: FLOAT,
    keep_at: FLOAT,
) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT, FLOAT]:
    y, basis, product, lost, stats = refresh_output_linear_unbiased(
        x, weight, v, down, error, sketch, probes, threshold, keep_at
    )
    return op.Add(y, bias), basis, product, lost, stats


def held_functions(opset: int) -> list[ir.Function]:
    """Every function of this file, for a model of this opset."""
    scripts = (
        measure,
        held_stats,
        held_linear_unbiased,
        held_linear,
        held_output_linear_unbiased,
        held_output_linear,
        refresh_output_linear_unbiased,
        refresh_output_linear,
    )
    return written(scripts, opset)
