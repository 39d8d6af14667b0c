"""Decides which sites of an inference graph go through a tracked basis, of which objective and rank.

The rank is the least that meets the fidelity on the example inputs, and a little more: a basis that is tracked trails
the best one. Where the options leave the objective open, a site gets the one that the cost model finds faster. Sites
that a basis would not make faster stay as they are: those where it could not even if it were never refreshed, and after
one run of the rest on the example inputs those where refreshes take what products save.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from laser_fx import subspace
from laser_fx.loops import Site, Step
from laser_fx.options import Options
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.folding_pays import folding

__all__ = ["Choice", "choose_sites", "tracked_rank"]

Spectra = Mapping[str, Tensor]
Trial = Callable[[Sequence[PlacedSite]], Mapping[str, tuple[Step, ...]]]


@dataclass(frozen=True)
class Choice:
    """What became of the sites.

    Args:
        tracked: sites to track, with rank and objective.
        left_exact: key of every other site → why it stays exact.
    """

    tracked: tuple[PlacedSite, ...]
    left_exact: Mapping[str, str] = field(default_factory=dict)


def choose_sites(
    placed: Sequence[PlacedSite], options: Options, spectra: Mapping[str, Spectra], trial: Trial
) -> Choice:
    """Choose a basis for every site that it makes faster, or for all where the options say so.

    Args:
        placed: the sites.
        options: fidelity, rank, objective and policy.
        spectra: objective → site → singular values (steps, width); needed where ``options.rank`` is ``None``.
        trial: runs the graph with these sites tracked on the example inputs: what each of their steps did.
    """
    ranked = [replace(p, site=_with_basis(p.site, options, spectra)) for p in placed]
    if options.sites == "all":
        return Choice(tuple(ranked))
    left = {p.site.key: why for p in ranked if (why := _why_not(p.site, None)) is not None}
    hopeful = [p for p in ranked if p.site.key not in left]
    done = trial(hopeful) if hopeful else {}
    left |= {p.site.key: why for p in hopeful if (why := _why_not(p.site, done[p.site.key])) is not None}
    return Choice(tuple(p for p in hopeful if p.site.key not in left), left)


def tracked_rank(energies: Tensor, fidelity: float) -> int:
    """Columns of a tracked basis: it trails the best one, so it gets an eighth more than that needs, and at least four.

    Args:
        energies: (steps, width), squared singular values.
        fidelity: what the basis is to keep at every step.
    """
    if not bool(energies.isfinite().all()):  # nothing is known of what it needs
        return energies.shape[1]
    needed = max(int(subspace.needed_rank(step, step.sum(), fidelity)) for step in energies)
    return min(energies.shape[1], needed + max(4, math.ceil(needed / 8)))


def _with_basis(site: Site, options: Options, spectra: Mapping[str, Spectra]) -> Site:
    asked = ("activation", "output") if options.objective == "either" else (options.objective,)
    found = [replace(site, rank=_rank(site, objective, options, spectra), objective=objective) for objective in asked]
    return min(found, key=lambda s: folding(s, s.rank or 0, objective=s.objective or "activation").folded)


def _rank(site: Site, objective: str, options: Options, spectra: Mapping[str, Spectra]) -> int:
    width = site.outputs if objective == "output" else site.features
    if options.rank is not None:
        return min(options.rank, width)
    return tracked_rank(spectra[objective][site.key].double().square(), options.fidelity)


def _why_not(site: Site, done: Sequence[Step] | None) -> str | None:
    cost = folding(site, site.rank or 0, objective=site.objective or "activation", done=done)
    if cost.pays:
        return None
    if done is None:
        return f"at rank {site.rank} {cost.reason}, even if it is never refreshed"
    refreshed = sum(step.tracked for step in done)
    return f"at rank {site.rank}, refreshed in {refreshed} of {len(done)} steps, {cost.reason}"
