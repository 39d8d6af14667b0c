"""The operators of the ``laser::`` namespace: what a rewritten graph calls at a site.

All are functional, none returns its input, and all have fake rules: graphs with them can be traced, exported and shown.
``x`` is (..., D), flattened inside to (N, D); ``q`` is (D, k) float32; thresholds are 0-d float32. Bases and
measurements are constants for autograd. Autocast is off inside; the linear casts what autocast would have cast.

>>> x, q = torch.eye(4), torch.eye(4)[:, :3].contiguous()
>>> _, z, measured, tracked = torch.ops.laser.track(x, q, torch.tensor(0.7))
>>> measured.item(), tracked.item()
(0.75, 0.0)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from laser_fx import subspace
from laser_fx.errors import InputError
from laser_fx.swaps import refuse_swapped, watch

__all__ = [
    "EXACT",
    "FIDELITY",
    "RANK",
    "RESET",
    "TRACKED",
    "autocast_off",
    "exact_linear",
    "linear",
    "lowered_dtype",
    "reset",
    "spectrum",
    "track",
]

FIDELITY, RANK, TRACKED, RESET, EXACT = range(5)
"""Positions in the ``stats`` that `reset` returns."""


def autocast_off(x: Tensor) -> torch.autocast:
    """A context in which nothing is cast."""
    return torch.autocast(x.device.type, enabled=False)


def _lowered(x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """The operands of a linear as autocast casts them."""
    if not torch.is_autocast_enabled(x.device.type):
        return [x, *others]
    dtype = torch.get_autocast_dtype(x.device.type)
    return [t if t is None or t.dtype == torch.float64 else _cast(t, dtype) for t in (x, *others)]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Does not even call an operator where there is nothing to cast."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def exact_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Bitwise what ``F.linear`` gives here."""
    lowered = _lowered(x, weight, bias)
    with autocast_off(x):
        return F.linear(*lowered)  # type: ignore[arg-type]


def lowered_dtype(x: Tensor) -> torch.dtype:
    """Of what a linear reads and returns."""
    is_cast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if is_cast else x.dtype


@torch.library.custom_op("laser::track", mutates_args=())
def track(x: Tensor, q: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Measure a basis; below the threshold make one power iteration and measure again.

    The coefficients that a measurement needs are those that the linear needs: they are handed on, so that a basis which
    is kept costs nothing but the projection. Whether columns are orthonormal is looked at when they are made: a basis
    that is not comes out as zeros, whose fidelity is 0.

    Args:
        q: zeros, or a basis that `track` or `reset` returned, or one that is orthonormal otherwise.

    Returns:
        The basis (D, k), its coefficients ``Z = XQ`` (N, k), its fidelity (0-d), and 1.0 where an iteration was
        made, else 0.0 (0-d), all float32.
    """
    with autocast_off(x):
        z, total = subspace.project(x, q), subspace.energy(x)
        at_hand = subspace.captured(z, total)
        if bool(at_hand >= threshold):
            return q.clone(), z, at_hand, torch.zeros_like(at_hand)
        following = subspace.trusted(subspace.orthonormalise(subspace.flatten(x).mT @ z))
        z = subspace.project(x, following)
        return following, z, subspace.captured(z, total), torch.ones_like(at_hand)


@torch.library.custom_op("laser::reset", mutates_args=())
def reset(
    x: Tensor, q: Tensor, z: Tensor, fidelity: Tensor, tracked: Tensor, sketch: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep a basis that meets the threshold; else make a fresh one with the randomised range finder.

    Args:
        z: coefficients of ``q``, as `track` returned them.
        fidelity: fidelity of ``q``, as `track` measured it.
        tracked: `track`'s flag, passed on into the statistics.
        sketch: (D, k) Gaussian constant.

    Returns:
        The basis (D, k), its coefficients (N, k), and stats (5,) float32: fidelity of the returned basis, the least
        number of its columns that reaches the threshold, tracked, reset, exact. ``exact`` is 1 where the fidelity is
        still below, or NaN; the coefficients have no rows then (the fake rule always gives N).
    """
    with autocast_off(x):
        kept = bool(fidelity >= threshold)
        following = q.clone() if kept else subspace.trusted(subspace.range_finder(x, sketch))
        coefficients = z.clone() if kept else subspace.project(x, following)
        measured = fidelity if kept else subspace.captured(coefficients, subspace.energy(x))
        rank = subspace.rank_within(coefficients.square().sum(0), measured, threshold)
        exact = not kept and not bool(measured >= threshold)
        flags = tracked.new_tensor([float(not kept), float(exact)])
        stats = torch.cat([torch.stack([measured, rank, tracked]), flags])
        return following, coefficients[:0].clone() if exact else coefficients, stats


@torch.library.custom_op("laser::linear", mutates_args=())
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, z: Tensor, stats: Tensor) -> Tensor:
    """A linear whose backward keeps ``Z = XQ`` instead of ``X``.

    Forward is exact, bitwise ``F.linear``. Backward: ``grad_X = dY W`` and ``grad_b = Σ dY`` exactly,
    ``grad_W = (dYᵀZ)Qᵀ``, accumulated in float32. Z is kept in the dtype of the result. Where Z has no rows, X
    itself is kept, without Q, and grad_W is exact.

    Args:
        z: ``XQ``, (N, k) float32, or (0, k), as `reset` returned it.
    """
    return exact_linear(x, weight, bias)


@torch.library.custom_op("laser::spectrum", mutates_args=())
def spectrum(x: Tensor) -> Tensor:
    """Singular values of the flattened X, descending and zero-padded: (D,) float32. For measurement only."""
    with autocast_off(x):
        return subspace.spectrum(x)


@track.register_fake
def _(x: Tensor, q: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.empty_like(q), _empty_coefficients(x, q), q.new_empty(()), q.new_empty(())


@reset.register_fake
def _(
    x: Tensor, q: Tensor, z: Tensor, fidelity: Tensor, tracked: Tensor, sketch: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(z), q.new_empty(5)


@linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, z: Tensor, stats: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=lowered_dtype(x))


def _empty_coefficients(x: Tensor, q: Tensor) -> Tensor:
    return q.new_empty(x.reshape(-1, x.shape[-1]).shape[0], q.shape[1])


@spectrum.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[-1], dtype=torch.float32)


def _constant(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.mark_non_differentiable(*(output if isinstance(output, tuple) else (output,)))
    ctx.inputs = len(inputs)


def _no_gradient(ctx: Any, *_: Any) -> Any:
    return (None,) * ctx.inputs


for _operator in (track, reset, spectrum):
    _operator.register_autograd(_no_gradient, setup_context=_constant)


def _keep_coefficients(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, q, z, _ = inputs
    ctx.exact, ctx.has_bias = z.shape[0] == 0, bias is not None
    ctx.dtype = x.dtype
    ctx.watched = watch([weight])
    ctx.save_for_backward(_cast(x if ctx.exact else z, lowered_dtype(x)), weight, None if ctx.exact else q)


def _refuse_second_derivatives() -> None:
    """X is not there to derive ``grad_W = dYᵀX`` by: the result would be wrong in silence."""
    if torch.is_grad_enabled():
        raise InputError(
            "create_graph=True asks for what second derivatives need, and memory='laser' keeps what first ones need",
            where="backward of laser::linear",
            fix="compile with laser_fx.Options(memory=None)",
        )


def _linear_backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_second_derivatives()
    kept, weight, q = ctx.saved_tensors
    refuse_swapped(ctx.watched, "backward of laser::linear")
    with autocast_off(grad_y):
        wanted = ctx.needs_input_grad
        grad_x = _cast(grad_y @ _cast(weight, grad_y.dtype), ctx.dtype) if wanted[0] else None
        grad_weight = _grad_weight(grad_y, kept, weight, q) if wanted[1] else None
        return grad_x, grad_weight, _grad_bias(ctx, grad_y), None, None, None


linear.register_autograd(_linear_backward, setup_context=_keep_coefficients)


def _grad_weight(grad_y: Tensor, kept: Tensor, weight: Tensor, q: Tensor | None) -> Tensor:
    """``dYᵀX``, or ``(dYᵀZ)Qᵀ`` where ``kept`` is Z; products accumulate in float32."""
    flat = grad_y.reshape(-1, grad_y.shape[-1])
    if q is None:
        return _cast(flat.mT @ _cast(kept.reshape(-1, kept.shape[-1]), flat.dtype), weight.dtype)
    return ((flat.to(q).mT @ kept.to(q)) @ q.mT).to(weight.dtype)


def _grad_bias(ctx: Any, grad_y: Tensor) -> Tensor | None:
    return grad_y.reshape(-1, grad_y.shape[-1]).sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
