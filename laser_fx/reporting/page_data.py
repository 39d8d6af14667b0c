"""What the page's scripts draw: columns of short numbers, and no more of them than a screen can show.

Downloads have the numbers as they are, see `laser_fx.reporting.embedded`; these are rounded to what a plot can show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from laser_fx.loops import Loop, LoopNest, Step
from laser_fx.reporting.embedded import evenly
from laser_fx.reporting.groups import Shown
from laser_fx.reporting.measured import CarryTrajectory, GraphPicture, LoopDynamics, MemoryArm, StepSpectrum
from laser_fx.reporting.parts import ENERGIES, SiteReport
from laser_fx.reporting.series import Stretch, levels, shortened

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["page_data", "rounded"]

_STEPS, _SPECTRA, _RANKS, _POINTS = 30_000, 600, 1_600, 40_000
"""Of all sites together: steps, spectra and their ranks; of all carries together: points."""
_LOOPS = 400


def page_data(report: Report, shown: Shown) -> dict[str, Any]:
    """The page's data for ``json.dumps``; see the scripts' ``data.js`` for the shape of each part."""
    trips = _trips(report.loops)
    both = [(0, report)] if report.control is None else [(0, report), (1, report.control)]
    return {
        "model": report.model,
        "threshold": report.options.fidelity,
        "levels": list(levels(report.options.fidelity)),
        "energies": list(ENERGIES),
        "loops": list(_loops(report.loops))[:_LOOPS],
        "sites": [_site(site, trips.get(site.site.loop, ()), len(shown.rows)) for site in shown.rows],
        "spectra": [series for of, each in both for series in _spectra(of, each, shown, len(both))],
        "trajectories": [_trajectory(of, series, _carries(both)) for of, each in both for series in each.trajectories],
        "dynamics": [_dynamics(of, loop) for of, each in both for loop in each.dynamics if loop.steps],
        "memory": [_arm(arm) for arm in report.memory],
        "onnx": [{"form": size.form, "bytes": size.bytes} for size in report.onnx if size.bytes is not None],
        "picture": None if report.picture is None else _picture(report.picture, shown),
    }


def rounded(value: float | None, digits: int = 5) -> float | None:
    """So many significant digits; None where there is no number.

    >>> rounded(0.123456789), rounded(float("nan")), rounded(None)
    (0.12346, None, None)
    """
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _trips(nest: LoopNest) -> dict[str, tuple[int, ...]]:
    """Of every loop, its own trip count behind those of the loops around it."""
    around: tuple[int, ...] = ()
    found = {}
    for (level, trips), loop in zip(nest.trips(), nest.walk(), strict=True):
        found[loop.name] = around = (*around[:level], trips)
    return found


def _loops(nest: LoopNest) -> Iterator[dict[str, Any]]:
    def descend(loops: Sequence[Loop], parent: str) -> Iterator[dict[str, Any]]:
        for loop in loops:
            yield {"name": loop.name, "trips": loop.trip_count, "parent": parent, "source": loop.source or ""}
            yield from descend(loop.children, loop.name)

    yield from descend(nest.loops, "")


def _site(report: SiteReport, trips: tuple[int, ...], sites: int) -> dict[str, Any]:
    """``each``: how many steps an entry of the columns stands for. ``lost``: 1 − fidelity, in millionths."""
    stretches = shortened(report.steps, max(8, _STEPS // max(1, sites)))
    return {
        "name": report.site.name,
        "loop": report.site.loop,
        "features": report.site.features,
        "rank": report.site.rank,
        "low": rounded(report.lowest_fidelity, 7),
        "trips": list(trips),
        "steps": len(report.steps),
        "each": stretches[0].last + 1 if stretches else 1,
        "lost": [_millionths(stretch.fidelity) for stretch in stretches],
        "ranks": [stretch.rank for stretch in stretches],
        "did": "".join(_did(stretch) for stretch in stretches),
    }


def _millionths(fidelity: float) -> int | None:
    """Rounded up, so that what is below the threshold is not shown above it."""
    lost = 1e6 * (1.0 - fidelity) - 1e-6
    return math.ceil(lost) if math.isfinite(lost) else None


def _did(step: Step | Stretch) -> str:
    return "3" if step.exact else "2" if step.reset else "1" if step.tracked else "0"


def _spectra(of: int, report: Report, shown: Shown, reports: int) -> Iterator[dict[str, Any]]:
    """Of rows that are single sites alone: groups have none."""
    series = max(1, reports * sum(1 for row in shown.rows if row.spectra))
    for site in report.sites:
        row = shown.row_of.get(site.site.key)
        if site.spectra and row is not None and shown.counts[row] == 1:
            yield _spectrum(of, row, site.spectra, series)


def _spectrum(of: int, row: int, spectra: Sequence[StepSpectrum], series: int) -> dict[str, Any]:
    some = [spectra[i] for i in evenly(len(spectra), min(12, max(2, _SPECTRA // series)))]
    ranked = [spectra[i] for i in evenly(len(spectra), min(200, max(8, _RANKS // series)))]
    return {
        "of": of,
        "site": row,
        "steps": [spectrum.step for spectrum in some],
        "values": [[rounded(value, 4) for value in spectrum.values] for spectrum in some],
        "at": [spectrum.step for spectrum in ranked],
        "ranks": [list(spectrum.ranks) for spectrum in ranked],
        "centred": [list(spectrum.centred_ranks) for spectrum in ranked],
        "drift": [rounded(spectrum.drift, 4) for spectrum in ranked],
        "mean": [rounded(spectrum.mean_share, 4) for spectrum in ranked],
    }


def _carries(both: Sequence[tuple[int, Report]]) -> int:
    return max(1, sum(len(report.trajectories) for _, report in both))


def _trajectory(of: int, series: CarryTrajectory, carries: int) -> dict[str, Any]:
    steps = [series.steps[i] for i in evenly(len(series.steps), max(16, min(500, _POINTS // carries)))]
    return {
        "of": of,
        "loop": series.loop,
        "carry": series.carry,
        "at": [step.step for step in steps],
        "change": [rounded(step.change, 4) for step in steps],
        "cosine": [rounded(step.cosine, 7) for step in steps],
        "error": [rounded(step.error, 4) for step in steps],
    }


def _dynamics(of: int, loop: LoopDynamics) -> dict[str, Any]:
    steps = [loop.steps[i] for i in evenly(len(loop.steps), 200)]
    return {
        "of": of,
        "loop": loop.loop,
        "at": [step.step for step in steps],
        "radius": [rounded(step.radius) for step in steps],
        "norm": [rounded(step.norm) for step in steps],
        "values": [[[rounded(real), rounded(imaginary)] for real, imaginary in step.eigenvalues] for step in steps],
    }


def _arm(arm: MemoryArm) -> dict[str, Any]:
    return {"name": arm.name, "classes": dict(arm.classes)}


def _picture(picture: GraphPicture, shown: Shown) -> dict[str, Any]:
    """A node: label, kind, inputs, loop, module, row of its site or −1, carried, shape; nodes are named by number."""
    number = {node.name: i for i, node in enumerate(picture.nodes)}

    def numbers(names: Sequence[str]) -> list[int]:
        return [number[name] for name in names if name in number]

    nodes = [
        (
            node.label,
            node.kind,
            numbers(node.inputs),
            node.loop,
            node.module,
            shown.row_of.get(node.site, -1),
            numbers(node.carried),
            node.shape,
        )
        for node in picture.nodes
    ]
    return {"nodes": nodes, "left_out": picture.left_out}
