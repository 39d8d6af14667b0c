"""A basis and what activations in it say: their coefficients, their fidelity, and a better basis."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Basis", "Measured", "Pool", "without_mean"]


@dataclass(frozen=True, eq=False)
class Basis:
    """Q (D, k), and the mean (D,) that is taken off first, None for none."""

    q: Tensor
    mean: Tensor | None


@dataclass(frozen=True, eq=False)
class Measured:
    """An activation X (N, D) in a basis.

    Args:
        z: ``(X − mean) Q``, (N, k).
        total: ``‖X − mean‖²``.
        fidelity: the part of it that is in the basis.
        rank: the least number of columns that reaches the threshold.
    """

    basis: Basis
    z: Tensor
    total: Tensor
    fidelity: float
    rank: int

    def products(self, flat: Tensor) -> Tensor:
        """``(X − mean)ᵀZ``, (D, k): the main cost of tracking."""
        found = flat.mT @ self.z
        mean = self.basis.mean
        return found if mean is None else found.addr_(mean, self.z.sum(0), alpha=-1)


class Pool:
    """What the steps that were seen with one basis say about a better one: sums over them, energy in all."""

    def __init__(self, basis: Basis) -> None:
        features, rank = basis.q.shape
        self.y = basis.q.new_zeros(features, rank)
        self.c = basis.q.new_zeros(rank, rank)
        self.sum = basis.q.new_zeros(features)
        self.rows = 0
        self.energy = basis.q.new_zeros(())

    def add(self, flat: Tensor, measured: Measured, products: Tensor) -> None:
        """One step, with its `Measured.products`."""
        self.y += products
        self.c.addmm_(measured.z.mT, measured.z)
        if measured.basis.mean is not None:
            self.sum += flat.sum(0)
        self.rows += flat.shape[0]
        self.energy += measured.total


def without_mean(flat: Tensor, mean: Tensor | None) -> Tensor:
    """The rows less their mean, where one is taken off."""
    return flat if mean is None else flat - mean
