"""The activation of every step at every site: spectrum, ranks, drift of its subspace. One forward, one X at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor

from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.program import Program
from laser_fx.reporting.instruments.spectrum import Subspace, angles, decomposed, ranks, rounded
from laser_fx.reporting.instruments.watch import Watcher, sampled, watch
from laser_fx.reporting.measured import StepSpectrum
from laser_fx.reporting.parts import ENERGIES

__all__ = ["measure_step_spectra", "sampled_steps"]

SHOWN = 24
"""Singular values that are kept of a step."""
_DRIFT_ENERGY = 0.99
_MOST, _LEAST = 64, 4
"""Steps that are measured of a site."""
_BUDGET = 7e10
"""Sum of the cubes of all Gram matrices' sizes: about a minute on one core."""


def measure_step_spectra(program: Program, placed: Sequence[PlacedSite]) -> dict[str, tuple[StepSpectrum, ...]]:
    """Site → what its steps' activations are like, on the example inputs, of the exact graph.

    Of many steps, evenly spaced ones are measured, the first and the last among them; of the step before each of these
    only what drift is measured against. At any time one activation and, for each site, one basis are held.

    Args:
        program: any program.
        placed: its sites.
    """
    sites = [p.site for p in placed]
    watcher = _Spectra(sampled_steps(sites))
    watch(program, program.rolled, watcher, {p.node: p.site.key for p in placed})
    return {site.key: tuple(watcher.found[site.key]) for site in sites}


def sampled_steps(sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
    """Which steps of each site are measured: so many that all of them take about a minute.

    >>> site = Site("up", "loop_0", "up.weight", 900, 256, 512, steps=500)
    >>> len(sampled_steps([site])["loop_0:up"])
    64
    """
    cost = sum(2.0 * min(site.shape) ** 3 for site in sites)
    most = int(max(_LEAST, min(_MOST, _BUDGET / max(cost, 1.0))))
    return {site.key: sampled(site.steps, most) for site in sites}


class _Spectra(Watcher):
    def __init__(self, steps: Mapping[str, Sequence[int]]) -> None:
        self.steps = {key: frozenset(chosen) for key, chosen in steps.items()}
        self.before: dict[str, Subspace | None] = {}
        self.found: dict[str, list[StepSpectrum]] = {key: [] for key in steps}

    def at_site(self, key: str, step: int, x: Tensor) -> None:
        chosen = self.steps[key]
        if step not in chosen and step + 1 not in chosen:
            return
        before = self.before.pop(key, None)
        found = decomposed(x, _DRIFT_ENERGY, centre=step in chosen) if prod(x.shape) else None
        if step in chosen:
            self.found[key].append(_spectrum(step, found, before if step else None))
        if step + 1 in chosen:
            self.before[key] = found


def _spectrum(step: int, found: Subspace | None, before: Subspace | None) -> StepSpectrum:
    if found is None or found.total == 0.0 or found.centred is None:
        return StepSpectrum(step, (), (0,) * len(ENERGIES) if found is not None else ())
    values = (found.energies[:SHOWN] / found.total).sqrt().tolist()
    drift, mean_drift = _drift(found, before)
    return StepSpectrum(
        step=step,
        values=tuple(map(rounded, values)),
        ranks=ranks(found.energies, ENERGIES),
        centred_ranks=ranks(found.centred, ENERGIES, found.total),
        mean_share=rounded(min(1.0, found.mean_energy / found.total)),
        drift=drift,
        mean_drift=mean_drift,
    )


def _drift(found: Subspace, before: Subspace | None) -> tuple[float | None, float | None]:
    if before is None:
        return None, None
    rank = min(found.directions.shape[1], before.directions.shape[1])
    if rank == 0:
        return None, None
    between = angles(before.directions[:, :rank], found.directions[:, :rank])
    return rounded(float(between.max())), rounded(float(between.square().mean().sqrt()))
