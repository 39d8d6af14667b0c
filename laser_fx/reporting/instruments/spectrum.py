"""The mathematics of one activation: its singular values, the rank it needs, the angle to another subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Subspace", "angles", "decomposed", "least_rank", "ranks", "rounded"]

_CHUNK = 4096
"""Rows that are made float64 at a time."""
_NOTHING = 1e-12
"""A centred energy below this part of the whole is rounding."""
_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Subspace:
    """What is known of an activation X (N, D).

    Args:
        energies: squares of all its singular values, largest first, float64; they sum to ``total``.
        directions: right singular vectors (D, r) of the first ones, float64.
        total: ``‖X‖²``.
        mean_energy: N times the square of the norm of the mean of its rows.
        centred: squares of the singular values of X less that mean; None where not asked for.
    """

    energies: Tensor
    directions: Tensor
    total: float
    mean_energy: float = 0.0
    centred: Tensor | None = None


def decomposed(x: Tensor, keep: float, *, centre: bool = True) -> Subspace | None:
    """Take an activation apart, by the Gram matrix of its shorter side, in float64.

    Args:
        x: (…, D), of any floating dtype.
        keep: share of the energy that ``directions`` have to hold.
        centre: also of X less the mean of its rows.

    Returns:
        None where X has NaN or an infinity.

    >>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    >>> [round(value, 6) for value in decomposed(x, 0.99).energies.tolist()]
    [16.0, 9.0]
    """
    rows = _rows(x)
    gram = _gram(rows)
    if not bool(gram.isfinite().all()):
        return None
    total = float(gram.diagonal().sum())
    values, vectors = torch.linalg.eigh(gram)
    energies, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    rank = least_rank(energies, keep)
    directions = _directions(rows, vectors[:, :rank], energies[:rank])
    if not centre:
        return Subspace(energies, directions, total)
    mean = rows.mean(0, dtype=torch.float64)
    mean_energy = float(mean.square().sum()) * len(rows)
    centred = torch.linalg.eigvalsh(_centred(gram, mean, rows)).flip(0).clamp(min=0.0)
    return Subspace(energies, directions, total, mean_energy, centred)


def least_rank(energies: Tensor, share: float, whole: float | None = None) -> int:
    """The least number of leading energies that hold a share of all; 0 where all is (rounding of) nothing.

    Args:
        energies: largest first.
        share: in (0, 1].
        whole: what nothing is measured against; their own sum unless given.

    >>> least_rank(torch.tensor([8.0, 1.0, 1.0]), 0.9), least_rank(torch.zeros(3), 0.9)
    (2, 0)
    """
    total = float(energies.sum())
    if total <= _NOTHING * (total if whole is None else whole):
        return 0
    held = energies.cumsum(0)
    return min(int((held < share * total * (1 - 1e-12)).sum()) + 1, len(energies))


def ranks(energies: Tensor, shares: Sequence[float], whole: float | None = None) -> tuple[int, ...]:
    """`least_rank` for each share."""
    return tuple(least_rank(energies, share, whole) for share in shares)


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles in radians between the spans of orthonormal columns, (D, r) each: (r,), float64.

    Cosines tell large angles apart and sines small ones, so each angle is taken from the one that is exact there.

    >>> import math
    >>> angles(torch.eye(3)[:, :1].double(), torch.eye(3)[:, 1:2].double()).tolist()[0] == math.pi / 2
    True
    """
    overlap = first.mT @ second
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(second - first @ overlap).flip(0).clamp(max=1.0)
    return torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin())


def rounded(value: float) -> float:
    """To so many digits as mean something: reports are read, and loaded, as text.

    >>> rounded(0.123456789), rounded(0.0)
    (0.123457, 0.0)
    """
    return float(f"{value:.{_DIGITS}g}")


def _rows(x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    return flat.cpu() if flat.device.type == "mps" else flat  # which has no float64


def _gram(rows: Tensor) -> Tensor:
    """``XᵀX`` or ``XXᵀ``, whichever is smaller."""
    count, width = rows.shape
    if count <= width:
        wide = rows.double()
        return wide @ wide.mT
    gram = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    for part in rows.split(_CHUNK):
        wide = part.double()
        gram += wide.mT @ wide
    return gram


def _directions(rows: Tensor, vectors: Tensor, energies: Tensor) -> Tensor:
    if len(rows) > rows.shape[1]:
        return vectors
    images = rows.double().mT @ vectors
    return images / energies.sqrt().clamp(min=torch.finfo(torch.float64).tiny)


def _centred(gram: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """The Gram matrix of the rows less their mean."""
    if len(rows) > rows.shape[1]:
        return gram - len(rows) * torch.outer(mean, mean)
    across = gram.mean(0)
    return gram - across[None] - across[:, None] + gram.mean()
