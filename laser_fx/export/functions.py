"""The `laser::` operators as ONNX functions: those of `laser_fx.ops` here, those of a folded site beside.

No product has a one-dimensional operand: ONNX Runtime fuses those into wrong numbers.
"""
# mypy: disable-error-code="no-any-return,operator,valid-type,untyped-decorator,return-value"
# These bodies are ONNX in the syntax of Python: onnxscript compiles them, Python never runs them.

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript import FLOAT, script

from laser_fx.export.basis_functions import (
    BASIS,
    DOMAIN,
    OURS,
    VERSION,
    captured,
    flatten,
    op,
    operator,
    orthonormalise,
    power_iteration,
    rank_within,
    squares,
    trusted,
)
from laser_fx.export.branch_order import written
from laser_fx.export.folded_functions import FOLDED

__all__ = ["DOMAIN", "VERSION", "all_functions", "call_reset", "call_track"]


@script(OURS, default_opset=op)
def track(x: FLOAT, q: FLOAT, threshold: FLOAT) -> tuple[FLOAT, FLOAT, FLOAT, FLOAT]:
    flat = flatten(x, q)
    at_hand_z = op.MatMul(flat, q)
    total = squares(x)
    at_hand = captured(at_hand_z, total)
    if at_hand >= threshold:
        basis = op.Identity(q)
        z = op.Identity(at_hand_z)
        fidelity = op.Identity(at_hand)
        tracked = op.Constant(value_float=0.0)
    else:
        basis = trusted(orthonormalise(op.MatMul(op.Transpose(flat, perm=[1, 0]), at_hand_z)))
        z = op.MatMul(flat, basis)
        fidelity = captured(z, total)
        tracked = op.Constant(value_float=1.0)
    return basis, z, fidelity, tracked


@script(OURS, default_opset=op)
def reset(
    x: FLOAT, q: FLOAT, z: FLOAT, fidelity: FLOAT, tracked: FLOAT, sketch: FLOAT, threshold: FLOAT
) -> tuple[FLOAT, FLOAT, FLOAT]:
    if fidelity >= threshold:
        basis = op.Identity(q)
        coefficients = op.Identity(z)
        measured = op.Identity(fidelity)
        fresh = op.Constant(value_floats=[0.0])
    else:
        basis = trusted(power_iteration(x, power_iteration(x, sketch)))
        coefficients = op.MatMul(flatten(x, basis), basis)
        measured = captured(coefficients, squares(x))
        fresh = op.Constant(value_floats=[1.0])
    rank = rank_within(coefficients, measured, threshold)
    exact = op.Cast(op.Not(op.GreaterOrEqual(measured, threshold)), to=1)
    stats = op.Concat(
        op.Reshape(measured, [1]),
        op.Reshape(rank, [1]),
        op.Reshape(tracked, [1]),
        fresh,
        op.Reshape(exact, [1]),
        axis=0,
    )
    return basis, coefficients, stats


def all_functions(opset: int) -> list[ir.Function]:
    """Every function that a call of the `laser::` operators may need, for a model of this opset."""
    return written((*BASIS, track, reset, *FOLDED), opset)


def call_track(x: Any, q: Any, threshold: Any) -> Any:
    """A call of ``laser_fx.track``, for torch's exporter."""
    return operator("track", 3, 4)(x, q, threshold)


def call_reset(x: Any, q: Any, z: Any, fidelity: Any, tracked: Any, sketch: Any, threshold: Any) -> Any:
    """A call of ``laser_fx.reset``, for torch's exporter."""
    return operator("reset", 7, 3)(x, q, z, fidelity, tracked, sketch, threshold)
