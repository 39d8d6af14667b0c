"""What a site can be computed through: directions in order, and what leaving out the rest does to the answer.

All objectives are judged in one currency, so that ranks can be compared between sites and objectives. For a random
linear reading of the answer with gradient g at a site's output, an error δY moves it by ``⟨g, δY⟩``; its mean square is
``tr(δY G δYᵀ)`` with ``G = E[gᵀg]``. With ``C = Σ XᵀX`` and the directions of an objective, what is left out beyond
rank k adds up direction by direction, since each objective's directions make its own residual orthogonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from laser_fx import subspace
from laser_fx.calibration import Objective, SiteBasis
from laser_fx.passes.measure_frozen import PROBES

__all__ = ["OBJECTIVES", "Directions", "directions"]

OBJECTIVES: tuple[Objective, ...] = ("activation", "output", "answer")
_DAMPING = 1e-3
"""Share of the mean sensitivity that every direction of an output has at least: gradients are of few examples."""
_LEAST = 1e-12
"""Directions with a smaller share of the energy than that are rounding."""


@dataclass(frozen=True)
class Directions:
    """The directions of one site under one objective.

    Args:
        objective: which one.
        basis: (…, D or F, r) float32, see `SiteBasis`; the steps in front, where each has its own.
        dual: see `SiteBasis`.
        probes: see `SiteBasis`.
        tails: (r + 1,) float64: what the answer loses where the first k directions are kept; the last one is 0.
    """

    objective: Objective
    basis: Tensor
    dual: Tensor | None
    probes: Tensor | None
    tails: Tensor

    def site_basis(self, rank: int) -> SiteBasis:
        """The first ``rank`` of them."""
        return SiteBasis(self.objective, self.basis, self.dual, self.probes).of_rank(rank)


def directions(
    moment: Tensor, weight: Tensor, sensitivity: Tensor, objective: Objective, trips: tuple[int, ...], seed: str
) -> Directions:
    """The directions of a site.

    Args:
        moment: C (steps, D, D) float64, one for each step that has a basis of its own, or one for all of them.
        weight: (F, D).
        sensitivity: G (F, F) float64.
        objective: what to keep.
        trips: of the loops around the site, their product the number of ``moment``; none for one basis.
        seed: a name, for the probes.
    """
    wide = weight.detach().double()
    factor = _factor(sensitivity)
    parts = [_of_one(c, wide, factor, objective) for c in moment]
    rank = min(len(tail) - 1 for *_, tail in parts) if moment.any() else 0  # of what is never there, nothing is known
    tails = torch.stack([_cut(tail, rank) for *_, tail in parts]).sum(0)
    basis, dual = (_stacked([part[at] for part in parts], rank, trips) for at in (0, 1))
    assert basis is not None
    probes = None
    if dual is not None:
        probes = (factor @ subspace.sketch(len(factor), PROBES, f"probes {seed}").to(factor)).float()
        probes = probes.expand(*trips, *probes.shape).contiguous()
    return Directions(objective, basis, dual, probes, tails)


def _of_one(c: Tensor, weight: Tensor, factor: Tensor, objective: Objective) -> tuple[Tensor, Tensor | None, Tensor]:
    """Basis, dual, and tails of one moment."""
    energies, turns = torch.linalg.eigh(c)
    energies, turns = energies.clamp(min=0).flip(0), turns.flip(1)
    root = turns * energies.sqrt()
    if objective == "activation":
        return turns, None, _tails(energies * (factor.mT @ (weight @ turns)).square().sum(0))
    if objective == "output":
        kept, values = _left(weight @ root)
        return kept, None, _tails(values * (factor.mT @ kept).square().sum(0))
    kept, values = _left(factor.mT @ (weight @ root))
    dual = torch.linalg.solve_triangular(factor.mT, kept, upper=True)
    return factor @ kept, dual, _tails(values)


def _left(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors of (F, D) by descending singular value, and these squared; rounding counts as 0."""
    values, turns = torch.linalg.eigh(matrix.mT @ matrix)
    values, turns = values.flip(0), turns.flip(1)
    count, least = min(matrix.shape), max(_LEAST * float(values[0]), 0.0)
    rank = int((values[:count] > least).sum())
    found = matrix @ turns[:, :rank] / values[:rank].sqrt()
    if rank < count:  # a step of few directions has any others besides: other steps need as many
        found = torch.cat([found, torch.eye(len(matrix)).to(matrix)], dim=1)
        values[rank:] = 0.0
    kept: Tensor = torch.linalg.qr(found)[0]
    return kept[:, :count], values[:count]


def _tails(losses: Tensor) -> Tensor:
    return torch.cat([losses.flip(0).cumsum(0).flip(0), losses.new_zeros(1)])


def _cut(tail: Tensor, rank: int) -> Tensor:
    return tail[: rank + 1]


def _stacked(parts: list[Tensor | None], rank: int, trips: tuple[int, ...]) -> Tensor | None:
    present = [part[:, :rank].float() for part in parts if part is not None]
    return torch.stack(present).reshape(*trips, *present[0].shape).contiguous() if present else None


def _factor(sensitivity: Tensor) -> Tensor:
    """L with ``LLᵀ = G``, damped; the identity where the answer depends on nothing."""
    size = len(sensitivity)
    mean = float(sensitivity.diagonal().mean())
    eye = torch.eye(size, dtype=sensitivity.dtype, device=sensitivity.device)
    return torch.linalg.cholesky(sensitivity + _DAMPING * mean * eye) if mean > 0 else eye
