"""The operators of a site that carries its folded weight: the product of weight and basis is made once for each basis.

`fold` and `folded_linear` stand behind `laser_fx.ops.track` and `laser_fx.ops.reset`: ``Y ≈ (XQ)(QᵀWᵀ)``, and ``QᵀWᵀ``
is made again only in a step that changed Q. `output_linear` is a whole step of the other objective, which keeps
``Y = XWᵀ`` instead of X: ``Y ≈ (XA)Vᵀ`` with V (F, k) of orthonormal columns and ``A = WᵀV`` (D, k). Its columns are
found by power iteration on ``YᵀY``; the exact Y that this takes is what such a step returns.

What a step of `output_linear` that keeps its basis loses is ``‖X(Wᵀ − AVᵀ)‖²``. To know it would take the product that
is to be saved, so it is estimated with `PROBES` fixed Gaussian columns Ω: ``‖XE‖²`` for ``E = (Wᵀ − AVᵀ)Ω/√r``, (D, r).
V is orthonormal, so what is kept is ``‖XA‖²`` exactly, and fidelity is ``‖XA‖² / (‖XA‖² + ‖XE‖²)``: an *estimate*, in
which the loss is uncertain by a factor of about two. In a step that changes V, the fidelity is measured.

These operators are for inference: none has a gradient.

>>> x, w = torch.randn(6, 4), torch.randn(3, 4)
>>> q, stats = torch.eye(4), torch.tensor([1.0, 4.0, 1.0, 0.0, 0.0])
>>> folded = torch.ops.laser.fold(w, q, torch.zeros(4, 3), stats)
>>> torch.equal(torch.ops.laser.folded_linear(x, w, None, folded, x, stats), x @ w.mT)
True
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laser_fx import subspace
from laser_fx.ops import EXACT, RESET, TRACKED, autocast_off, exact_linear, lowered_dtype

__all__ = ["PROBES", "fold", "folded_linear", "output_linear"]

PROBES = 8
"""Columns that the loss of an output basis is estimated with."""


@torch.library.custom_op("laser::fold", mutates_args=())
def fold(weight: Tensor, q: Tensor, folded: Tensor, stats: Tensor) -> Tensor:
    """``QᵀWᵀ``, (k, F) float32: made where the step changed the basis, else what was at hand.

    Args:
        weight: (F, D).
        q: (D, k), the basis that the step ended with.
        folded: (k, F), of the basis that the step began with; zeros for a basis of zeros.
        stats: of the step, from `laser_fx.ops.reset`.
    """
    changed = bool(stats[TRACKED] + stats[RESET] > 0)
    with autocast_off(weight):
        return q.mT @ weight.to(q).mT if changed else folded.clone()


@torch.library.custom_op("laser::folded_linear", mutates_args=())
def folded_linear(x: Tensor, weight: Tensor, bias: Tensor | None, folded: Tensor, z: Tensor, stats: Tensor) -> Tensor:
    """``Z(QᵀWᵀ) + b``, or ``XWᵀ + b`` where ``stats`` says exact. (..., F), in the dtype of ``F.linear``.

    Args:
        weight: (F, D).
        bias: (F,) or ``None``.
        folded: ``QᵀWᵀ``, (k, F) float32.
        z: ``XQ``, (N, k) float32.
    """
    if bool(stats[EXACT] != 0):
        return exact_linear(x, weight, bias)
    dtype = lowered_dtype(x)
    with autocast_off(x):
        return _finished(z @ folded, x, bias, dtype)


@torch.library.custom_op("laser::output_linear", mutates_args=())
def output_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    down: Tensor,
    error: Tensor,
    sketch: Tensor,
    probes: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A linear through the directions of its output: estimate what they lose; below the threshold track, then reset.

    Args:
        x: (..., D).
        weight: (F, D).
        bias: (F,) or ``None``.
        v: (F, k), zeros, or the one that this operator returned.
        down: ``WᵀV``, (D, k).
        error: E, (D, r); for V = 0 any columns that X is not orthogonal to.
        sketch: (F, k) Gaussian constant, for a fresh basis.
        probes: Ω, (F, r) Gaussian constant.
        threshold: 0-d.

    Returns:
        ``XWᵀ + b``, (..., F) in the dtype of ``F.linear``: through the basis where it was kept, exactly where it was
        changed. Then V, A and E for the next step, and stats (5,) as `laser_fx.ops.reset` has them, of Y.
    """
    dtype = lowered_dtype(x)
    with autocast_off(x):
        z, lost = subspace.project(x, down), subspace.project(x, error).square().sum()
        total = z.square().sum() + lost
        at_hand = subspace.captured(z, total)
        if bool(at_hand >= threshold):
            stats = _stats(at_hand, z, threshold)
            return _finished(z @ v.mT, x, bias, dtype), v.clone(), down.clone(), error.clone(), stats
        wide = weight.to(v)
        y = subspace.project(x, wide.mT)  # exactly: it is what the step returns
        v, stats = _refreshed(y, v, sketch, threshold)
        down = wide.mT @ v
        error = (wide.mT @ probes - down @ (v.mT @ probes)) / math.sqrt(probes.shape[1])
        return _finished(y, x, bias, dtype), v, down, error, stats


def _refreshed(y: Tensor, v: Tensor, sketch: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """A basis of Y after a power iteration, or where that does not do a fresh one; and its stats."""
    total = subspace.energy(y)
    v = subspace.trusted(subspace.track(y, v))
    z = subspace.project(y, v)
    measured = subspace.captured(z, total)
    is_reset = not bool(measured >= threshold)
    if is_reset:
        v = subspace.trusted(subspace.range_finder(y, sketch))
        z = subspace.project(y, v)
        measured = subspace.captured(z, total)
    exact = not bool(measured >= threshold)
    return v, _stats(measured, z, threshold, 1.0, float(is_reset), float(exact))


def _stats(measured: Tensor, z: Tensor, threshold: Tensor, *flags: float) -> Tensor:
    """Fidelity, needed rank, tracked, reset, exact."""
    rank = subspace.rank_within(z.square().sum(0), measured, threshold)
    return torch.cat([torch.stack([measured, rank]), measured.new_tensor(flags or (0.0, 0.0, 0.0))])


def _finished(y: Tensor, x: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Y (N, F) float32 as the linear returns it."""
    shaped = y.reshape(*x.shape[:-1], y.shape[1])
    return (shaped if bias is None else shaped + bias.to(y)).to(dtype)


@fold.register_fake
def _(weight: Tensor, q: Tensor, folded: Tensor, stats: Tensor) -> Tensor:
    return torch.empty_like(folded)


def _output(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0], dtype=lowered_dtype(x))


@folded_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, folded: Tensor, z: Tensor, stats: Tensor) -> Tensor:
    return _output(x, weight)


@output_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    down: Tensor,
    error: Tensor,
    sketch: Tensor,
    probes: Tensor,
    threshold: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _output(x, weight), torch.empty_like(v), torch.empty_like(down), torch.empty_like(error), v.new_empty(5)
