"""Gives every site its rank: the least predicted loss of the answer for a given number of operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from laser_fx.calibration import SiteBasis
from laser_fx.calibrator.directions import Directions
from laser_fx.loops import LoopNest, Site
from laser_fx.passes.rank_schedule import Schedule, rank_at, shares

__all__ = ["Costs", "Pays", "allocate"]

_HALVINGS = 40
_PRICES = -80.0, 80.0
"""Logarithms of the least and the highest price of an operation, in losses of the answer."""


Pays = Callable[[Site, int], bool]
"""Whether a basis of some rank is faster at a site than the exact linear."""


class Costs:
    """Operations of the linears at sites, two for each multiply-add, at the rows and steps of a program.

    The factors of a site are made of its weight once a call, in an exported file once a session: that is not counted.

    Args:
        sites: those of the exact program.
        nest: its loops.
        schedule: ranks by outermost step.
    """

    def __init__(self, sites: Iterable[Site], nest: LoopNest, schedule: Schedule | None = None) -> None:
        self.sites = {site.key: site for site in sites}
        trips = {key: nest.trips_around(site.loop)[0] for key, site in self.sites.items()}
        self._steps = {key: shares(schedule or (1.0,), trips[key]) for key in self.sites}
        self.exact = sum(self.of(key, None) for key in self.sites)

    def of(self, key: str, rank: int | None) -> int:
        """Of one site through a basis of this rank; None for the linear itself."""
        site, steps = self.sites[key], self._steps[key]
        widths = (site.features * site.outputs, site.features + site.outputs)
        total = 0
        for share in steps:
            is_exact = rank is None or isinstance(share, str)
            total += widths[0] if is_exact else rank_at(float(share), rank or 1) * widths[1]
        return 2 * site.rows * (site.steps // len(steps)) * total

    def share(self, bases: Mapping[str, SiteBasis]) -> float:
        """Of all sites, of the exact linears; 1 where there are none."""
        ranks = {key: bases[key].rank if key in bases else None for key in self.sites}
        return sum(self.of(key, rank) for key, rank in ranks.items()) / self.exact if self.exact else 1.0


def allocate(
    choices: Mapping[str, Sequence[Directions]],
    costs: Costs,
    target: float,
    left: Iterable[str] = (),
    pays: Pays | None = None,
) -> dict[str, SiteBasis]:
    """Bases that take at most this share of the exact operations, or as few as can be.

    Args:
        choices: site → directions to choose from.
        costs: of ranks.
        target: the share.
        left: sites that stay exact.
        pays: whether a basis of some rank may be taken at a site; None: any that takes fewer operations.
    """
    keys = [key for key in costs.sites if key not in set(left)]
    curves = {key: [_curve(choice, costs, key, pays) for choice in choices[key]] for key in keys}
    fixed = sum(costs.of(key, None) for key in costs.sites if key not in curves)

    def chosen(price: float) -> dict[str, tuple[int, int]]:
        found = {key: _cheapest(curves[key], price, costs.of(key, None)) for key in keys}
        return {key: pick for key, pick in found.items() if pick is not None}

    def share(picks: Mapping[str, tuple[int, int]]) -> float:
        return (fixed + sum(costs.of(k, picks[k][1] if k in picks else None) for k in keys)) / costs.exact

    low, high = _PRICES
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if share(chosen(math.exp(middle))) > target else (low, middle)
    return {key: choices[key][at].site_basis(rank) for key, (at, rank) in chosen(math.exp(high)).items()}


Curve = tuple[torch.Tensor, torch.Tensor]


def _curve(choice: Directions, costs: Costs, key: str, pays: Pays | None) -> Curve:
    """Losses and operations by rank, from 1 on; what does not pay takes infinitely many."""
    site = costs.sites[key]
    operations = [
        float(costs.of(key, rank)) if pays is None or pays(site, rank) else math.inf
        for rank in range(1, len(choice.tails))
    ]
    return choice.tails[1:].cpu(), torch.tensor(operations, dtype=torch.float64)


def _cheapest(curves: Sequence[Curve], price: float, exact: int) -> tuple[int, int] | None:
    """Choice and rank of the least sum of loss and price; None where the linear itself is cheaper."""
    best, found = price * exact, None
    for at, (losses, operations) in enumerate(curves):
        if not len(losses):  # the data says nothing of what could be left out
            continue
        sums = torch.where(operations < exact, losses + price * operations, math.inf)
        least = int(sums.argmin())
        if float(sums[least]) < best:
            best, found = float(sums[least]), (at, least + 1)
    return found
