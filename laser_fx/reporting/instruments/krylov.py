"""Leading eigenvalues and the largest singular value of a matrix that is known by its products alone.

`leading_eigenvalues` is Arnoldi's method with the thick restart of Krylov and Schur (Stewart 2001). It always answers,
with a residual for each value, in a bounded number of products. ARPACK, in scipy, answers with nothing where a few
eigenvalues lie close together and have not converged: the usual case here, where every row of a batch brings its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Eigenvalue", "leading_eigenvalues", "norm_bound"]

Product = Callable[[Tensor], Tensor]

_SUBSPACE = 24
"""Vectors that are held."""
_BREAKDOWN = 1e-10
"""What is left of a product, as a part of it, below which the vectors at hand span an invariant subspace."""


class Eigenvalue(NamedTuple):
    """An approximate eigenvalue λ; ``residual`` is ``‖Av − λv‖ / |λ|`` of its vector v of length 1."""

    value: complex
    residual: float


def leading_eigenvalues(
    product: Product, start: Tensor, count: int = 6, *, products: int = 60, tolerance: float = 1e-3
) -> list[Eigenvalue]:
    """The eigenvalues of largest modulus, by falling modulus; a pair of conjugates is two and never parted.

    Args:
        product: v → Av, (n,) float64 each.
        start: (n,) float64, not zero, at random.
        count: how many to find; there may be one more, the conjugate of the last one, and fewer where n is less.
        products: how many products to make at most.
        tolerance: stop where all residuals are below it.

    >>> matrix = torch.diag(torch.tensor([3.0, 2.0, 0.5, 0.1], dtype=torch.float64))
    >>> found = leading_eigenvalues(lambda v: matrix @ v, torch.ones(4, dtype=torch.float64), 2)
    >>> [round(eigenvalue.value.real, 6) for eigenvalue in found]
    [3.0, 2.0]
    """
    size = len(start)
    width = min(size, max(_SUBSPACE, 2 * count + 4))
    basis = torch.zeros(width + 1, size, dtype=torch.float64, device=start.device)
    basis[0] = start / start.norm()
    small = torch.zeros(width + 1, width, dtype=torch.float64)
    filled, made = 0, 0
    while True:
        closed = False
        while filled < width and made < products and not closed:
            closed = _extend(product, basis, small, filled)
            filled, made = filled + 1, made + 1
        ritz = _ritz(small, filled, closed)
        wanted = _whole_pairs(ritz, count)
        if closed or made >= products or all(found.residual <= tolerance for found in wanted):
            return wanted
        filled = _restart(basis, small, filled, len(_whole_pairs(ritz, min(count + 4, width - 4))))


def norm_bound(product: Product, transposed: Product, start: Tensor, *, steps: int = 8) -> float:
    """A lower bound of the largest singular value, by Golub's and Kahan's bidiagonalisation: tight where one leads.

    Args:
        product: v → Av.
        transposed: u → Aᵀu.
        start: (n,) float64, not zero, at random.
        steps: how often both are applied.

    >>> matrix = torch.diag(torch.tensor([3.0, 2.0, 0.5, 0.1], dtype=torch.float64))
    >>> round(norm_bound(lambda v: matrix @ v, lambda v: matrix.T @ v, torch.ones(4, dtype=torch.float64)), 6)
    3.0
    """
    right = [start / start.norm()]
    images: list[Tensor] = []
    for _ in range(min(steps, len(start))):
        images.append(product(right[-1]))
        rest = _less(transposed(images[-1]), torch.stack(right))
        length = float(rest.norm())
        if length <= _BREAKDOWN * float(images[-1].norm()):
            break
        right.append(rest / length)
    return float(torch.linalg.matrix_norm(torch.stack(images), 2))


def _extend(product: Product, basis: Tensor, small: Tensor, filled: int) -> bool:
    """One more vector; whether there is none, since those at hand span an invariant subspace."""
    image = product(basis[filled])
    known = basis[: filled + 1]
    length = float(image.norm())
    for _ in range(2):  # once more for what rounding left
        parts = known @ image
        image = image - parts @ known
        small[: filled + 1, filled] += parts.cpu()
    rest = float(image.norm())
    if rest <= _BREAKDOWN * length or length == 0.0:
        small[filled + 1, filled] = 0.0
        return True
    small[filled + 1, filled] = rest
    basis[filled + 1] = image / rest
    return False


def _ritz(small: Tensor, filled: int, closed: bool) -> list[Eigenvalue]:
    """Eigenvalues of what the product is on the vectors at hand, by falling modulus."""
    values, vectors = torch.linalg.eig(small[:filled, :filled])
    last = torch.zeros(filled, dtype=torch.complex128) if closed else small[filled, :filled].to(torch.complex128)
    residuals = (last @ (vectors / vectors.norm(dim=0))).abs()
    found = [
        Eigenvalue(complex(value), float(residual) / abs(value) if value != 0 else 0.0)
        for value, residual in zip(values.tolist(), residuals.tolist(), strict=True)
    ]
    return sorted(found, key=lambda e: (-round(abs(e.value), 12), -e.value.real, -e.value.imag))


def _whole_pairs(ritz: list[Eigenvalue], count: int) -> list[Eigenvalue]:
    """The first ones; one more where that would part a pair."""
    taken = ritz[:count]
    if taken and len(ritz) > count and taken[-1].value.imag > 0 and ritz[count].value.imag < 0:
        taken = ritz[: count + 1]
    return taken


def _restart(basis: Tensor, small: Tensor, filled: int, keep: int) -> int:
    """Shrink the basis to what spans the leading Ritz vectors: how many vectors that are."""
    values, vectors = torch.linalg.eig(small[:filled, :filled])
    order = sorted(range(filled), key=lambda i: (-round(abs(values[i].item()), 12), -values[i].real, -values[i].imag))
    leading = vectors[:, order[:keep]]
    # The real and imaginary parts span what a pair and its conjugate do; the singular vectors of parallel ones, as a
    # defective matrix has them, are few.
    left, strengths, _ = torch.linalg.svd(torch.cat([leading.real, leading.imag], 1), full_matrices=False)
    chosen = left[:, : max(1, min(keep, int((strengths > 1e-8 * strengths[0]).sum())))]
    kept = int(chosen.shape[1])
    basis[:kept] = chosen.mT.to(basis.device) @ basis[:filled]
    basis[kept] = basis[filled].clone()
    core, last = chosen.mT @ small[:filled, :filled] @ chosen, small[filled, :filled] @ chosen
    small.zero_()
    small[:kept, :kept], small[kept, :kept] = core, last
    return kept


def _less(vector: Tensor, known: Tensor) -> Tensor:
    """What of a vector is orthogonal to rows that are so to each other."""
    for _ in range(2):
        vector = vector - (known @ vector) @ known
    return vector
