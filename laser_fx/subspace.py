"""The mathematics of tracked low-rank activations: pure functions on tensors.

``X`` is an activation, flattened to (N, D); ``Q`` a basis, (D, k), with orthonormal columns or zero ones. Everything
is measured in float32, whatever the dtype of ``X``. Fidelity is uncentred: ``‖XQ‖²_F / ‖X‖²_F``.

References: arXiv 2604.17224 (tracking and reset); Halko, Martinsson, Tropp 2011, algorithms 4.1 and 4.3 (range finder,
power iteration). Two differences: ``Q`` is measured before it is trusted, and columns that add nothing are zero instead
of arbitrary.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

__all__ = [
    "ORTHONORMALITY_LIMIT",
    "RANK_TOLERANCE",
    "captured",
    "column_energies",
    "energy",
    "fidelity",
    "flatten",
    "measure",
    "measure_coefficients",
    "needed_rank",
    "nystrom_factor",
    "orthonormalise",
    "orthonormality_error",
    "principal",
    "project",
    "range_finder",
    "rank_within",
    "sketch",
    "spectrum",
    "track",
    "trusted",
]

ORTHONORMALITY_LIMIT = 1e-4
"""A basis with a larger `orthonormality_error` counts as fidelity 0: its ``‖XQ‖²`` says nothing."""

RANK_TOLERANCE = 2e-6
"""A unit column whose part outside the columns before it is at most this long adds rounding noise and becomes zero."""


_GRAM_TOLERANCE = 1e-6
"""An eigenvalue of a float32 Gram matrix below this part of the largest one is rounding noise."""


def flatten(x: Tensor) -> Tensor:
    """An activation (..., D) as a float32 matrix (N, D)."""
    return x.reshape(-1, x.shape[-1]).to(torch.float32)


def project(x: Tensor, q: Tensor) -> Tensor:
    """Coefficients ``Z = XQ``: (..., D) and (D, k) to (N, k), float32."""
    return flatten(x) @ q


def energy(x: Tensor) -> Tensor:
    """``‖X‖²_F``, a 0-d float32 tensor."""
    return flatten(x).square().sum()


def column_energies(x: Tensor, q: Tensor) -> Tensor:
    """``‖X q_j‖²`` of each column of the basis: (k,), float32."""
    return project(x, q).square().sum(0)


def orthonormality_error(q: Tensor) -> Tensor:
    """Largest entry of ``|QᵀQ − I|`` over the columns that are not zero, 0-d; NaN where ``Q`` (…, D, k) has one.

    >>> orthonormality_error(torch.tensor([[1.0, 0.0], [0.0, 0.0]])).item()
    0.0
    """
    gram = q.mT @ q
    occupied = (q != 0).any(-2).to(q.dtype)
    return (gram - torch.diag_embed(occupied)).abs().amax() if q.numel() else q.new_zeros(())


def measure(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fidelity of a basis, with what it was made of.

    Returns:
        ``‖XQ‖² / ‖X‖²`` in [0, 1], 0-d: 1 where X = 0, 0 where Q is not orthonormal to `ORTHONORMALITY_LIMIT`,
        NaN where X has one. Then `column_energies` (k,), and `energy`, 0-d.
    """
    return measure_coefficients(project(x, q), q, energy(x))


def measure_coefficients(z: Tensor, q: Tensor, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`measure`, where the coefficients ``Z = XQ`` (N, k) and ``total = ‖X‖²`` (0-d) are at hand."""
    ratio = captured(z, total)
    is_trusted = orthonormality_error(q) <= ORTHONORMALITY_LIMIT
    return torch.where(is_trusted, ratio, torch.zeros_like(ratio)), z.square().sum(0), total


def captured(z: Tensor, total: Tensor) -> Tensor:
    """``‖Z‖² / total`` in [0, 1], 0-d; 1 where ``total`` is 0. A fidelity, if the basis of Z is orthonormal or zero.

    >>> captured(torch.tensor([[2.0], [0.0]]), torch.tensor(5.0)).item()
    0.800000011920929
    """
    return torch.where(total == 0, torch.ones_like(total), z.square().sum() / total).clamp(max=1.0)


def trusted(q: Tensor) -> Tensor:
    """The basis; zeros where its `orthonormality_error` is above `ORTHONORMALITY_LIMIT` or NaN.

    >>> trusted(torch.tensor([[1.0], [0.0]])).T, trusted(torch.tensor([[1.1], [0.0]])).T
    (tensor([[1., 0.]]), tensor([[0., 0.]]))
    """
    return torch.where(orthonormality_error(q) <= ORTHONORMALITY_LIMIT, q, 0.0)


def fidelity(x: Tensor, q: Tensor) -> Tensor:
    """Fidelity of a basis alone, see `measure`.

    >>> fidelity(torch.eye(4), torch.eye(4)[:, :3]).item()
    0.75
    """
    return measure(x, q)[0]


def needed_rank(energies: Tensor, total: Tensor, threshold: Tensor | float) -> Tensor:
    """Least number of columns, by descending energy, whose sum reaches ``threshold · total``; k where none does.

    Args:
        energies: (k,), for example `column_energies`, or squared singular values.
        total: ``‖X‖²_F``, 0-d.
        threshold: wanted fidelity.

    Returns:
        0-d float32, a whole number in [0, k]: 0 where X = 0.

    >>> needed_rank(torch.tensor([1.0, 6.0, 3.0]), torch.tensor(10.0), 0.9).item()
    2.0
    """
    return _count_below(threshold * total, _reached(energies))


def rank_within(energies: Tensor, fidelity: Tensor, threshold: Tensor | float) -> Tensor:
    """`needed_rank`, where the fidelity of all columns together (0-d) is at hand instead of ``‖X‖²``.

    >>> rank_within(torch.tensor([1.0, 6.0, 2.0]), torch.tensor(0.9), 0.8).item()
    2.0
    """
    reached = _reached(energies)
    return _count_below(threshold * (reached[-1] / fidelity), reached)


def _reached(energies: Tensor) -> Tensor:
    """What 0, 1, … k columns hold, by descending energy."""
    return torch.nn.functional.pad(energies.sort(descending=True).values.cumsum(0), (1, 0))


def _count_below(wanted: Tensor, reached: Tensor) -> Tensor:
    return (~reached.ge(wanted)).sum().clamp(max=reached.shape[0] - 1).to(torch.float32)


def orthonormalise(y: Tensor) -> Tensor:
    """Orthonormal basis of the columns of ``Y``, in their order: the Q of ``Y = QR`` with ``diag R ≥ 0``.

    Columns are normalised first, so their scale does not matter. A column that lies in the span of those before it (to
    `RANK_TOLERANCE`), or that is zero or not finite, becomes zero; the others span what ``Y`` does.

    Args:
        y: (D, k), any float dtype and any condition number.

    Returns:
        (D, k) float32, ``‖QᵀQ − I‖ ≤ 1e-5`` over its columns that are not zero.

    >>> orthonormalise(torch.tensor([[2.0, 4.0, 0.0], [0.0, 0.0, -3.0]])).add(0.0)
    tensor([[ 1.,  0.,  0.],
            [ 0.,  0., -1.]])
    """
    unit = _unit_columns(y.to(torch.float32))
    q = torch.zeros_like(unit)
    left, rounds = unit.any(0).nonzero().flatten(), 0
    while left.numel():
        remainder = _outside(_outside(unit[:, left], q), q)
        new = remainder.norm(dim=0) > RANK_TOLERANCE
        left, rounds = left[new], rounds + 1
        basis, diagonal = _qr(remainder[:, new])
        independent = int((diagonal.abs() > RANK_TOLERANCE).cumprod(0).sum())
        q[:, left[:independent]] = basis[:, :independent]
        left = left[independent:]
    return q if rounds < 2 else _polished(q)


def _unit_columns(y: Tensor) -> Tensor:
    """Columns at length 1; zero where it is zero or not finite. Scaled by the largest entry first: no overflow."""
    if not y.numel():
        return y
    scaled = y / y.abs().amax(0).clamp(min=torch.finfo(y.dtype).tiny)
    length = scaled.norm(dim=0)
    return torch.where(length.isfinite() & (length > 0.5), scaled / length, 0.0)


def _outside(y: Tensor, q: Tensor) -> Tensor:
    return y - q @ (q.mT @ y)


def _qr(y: Tensor) -> tuple[Tensor, Tensor]:
    """Q with the signs that make diag R ≥ 0, and diag R."""
    q, r = torch.linalg.qr(y)
    diagonal = r.diagonal()
    return q * torch.where(diagonal < 0, -1.0, 1.0), diagonal


def _polished(q: Tensor) -> Tensor:
    """Columns found in different rounds are orthogonal only to rounding over their remainder: one more QR."""
    occupied = q.any(0)
    q[:, occupied] = _qr(q[:, occupied])[0]
    return q


def track(x: Tensor, q: Tensor) -> Tensor:
    """One block power iteration, matrix-free: ``Q' = orth(Xᵀ(XQ))``.

    For an orthonormal Q the fidelity never falls (in exact arithmetic): with ``M_i = Qᵀ(XᵀX)^i Q``, block
    Cauchy–Schwarz gives ``tr(M₂⁻¹M₃) ≥ tr(M₁⁻¹M₂) ≥ tr(M₁)``.

    Args:
        x: (..., D).
        q: (D, k) float32; need not be orthonormal.
    """
    flat = flatten(x)
    return orthonormalise(flat.mT @ (flat @ q))


def nystrom_factor(y: Tensor, c: Tensor) -> Tensor:
    """What products with a basis tell of many activations: B with ``BBᵀ = Y C⁻¹ Yᵀ``, their Nyström approximation.

    For a basis Q and activations ``X_t``, with ``Y = Σ X_tᵀ(X_t Q)`` and ``C = Σ (X_t Q)ᵀ(X_t Q)``, ``BBᵀ`` is never
    above ``Σ X_tᵀX_t``, so no energy is overstated. Directions that are rounding noise are left out.

    Args:
        y: (D, k) float32.
        c: (k, k) float32.

    Returns:
        (D, r) float32, r at most k.

    >>> x = torch.diag(torch.tensor([1.0, 2.0]))
    >>> factor = nystrom_factor(x.mT @ x, x.mT @ x)
    >>> factor @ factor.mT
    tensor([[1., 0.],
            [0., 4.]])
    """
    # The small energies are divided by.
    energies, turns = _spectrum_of_gram(c.double())
    return y @ (turns / energies.sqrt())


def principal(factor: Tensor) -> tuple[Tensor, Tensor]:
    """The columns that span what ``BBᵀ`` does, by descending energy.

    Args:
        factor: B, (D, K) float32, for example `nystrom_factor` of several bases side by side.

    Returns:
        (D, r) float32, unit columns that are orthogonal to rounding: `orthonormalise` those that are kept. Then their
        energies in ``BBᵀ``, (r,) float32.

    >>> principal(torch.diag(torch.tensor([1.0, 3.0, 2.0])))[1]
    tensor([9., 4., 1.])
    """
    if factor.shape[1] >= factor.shape[0]:
        energies, directions = _spectrum_of_gram(factor @ factor.mT)
        return directions, energies
    energies, turns = _spectrum_of_gram(factor.mT @ factor)
    return factor @ (turns / energies.sqrt()), energies


def _spectrum_of_gram(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and eigenvectors of a Gram matrix, without those that are rounding noise."""
    values, vectors = torch.linalg.eigh(gram)
    if not values.numel():
        return values.float(), vectors.float()
    real = values > values[-1] * _GRAM_TOLERANCE
    return values[real].flip(0).float(), vectors[:, real].flip(1).float()


def range_finder(x: Tensor, sketch: Tensor) -> Tensor:
    """Randomised range finder with one extra power iteration: ``Q = orth(Xᵀ(XΩ))``, then `track`.

    Args:
        x: (..., D).
        sketch: Ω, (D, k), Gaussian.
    """
    return track(x, track(x, sketch))


def sketch(features: int, rank: int, seed: int | str) -> Tensor:
    """A Gaussian matrix (features, rank), float32 on the CPU, made from ``seed`` alone.

    Args:
        seed: a number, or a name such as a site's key.

    >>> torch.equal(sketch(4, 2, "loop_0:up"), sketch(4, 2, "loop_0:up"))
    True
    """
    number = zlib.crc32(seed.encode()) if isinstance(seed, str) else seed
    return torch.randn(features, rank, generator=torch.Generator().manual_seed(number))


def spectrum(x: Tensor) -> Tensor:
    """Singular values of X, descending: (D,) float32, zero-padded, from the eigenvalues of the float64 Gram matrix.

    All are NaN where X, or the Gram matrix, has NaN or an infinity.

    >>> spectrum(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([4., 3.])
    """
    flat = x.reshape(-1, x.shape[-1]).to(torch.float64)
    gram = flat @ flat.mT if flat.shape[0] < flat.shape[1] else flat.mT @ flat
    if not bool(gram.isfinite().all()):  # LAPACK would not converge
        return torch.full((flat.shape[1],), torch.nan, device=x.device)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return torch.nn.functional.pad(values, (0, flat.shape[1] - values.shape[0])).to(torch.float32)
