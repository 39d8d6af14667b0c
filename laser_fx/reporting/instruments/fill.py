"""Fills a report with what its instruments measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from laser_fx.passes.find_sites import PlacedSite
from laser_fx.program import Program
from laser_fx.reporting.instruments.choose import Measure
from laser_fx.reporting.instruments.dynamics import measure_dynamics
from laser_fx.reporting.instruments.picture import picture_of
from laser_fx.reporting.instruments.progress import told
from laser_fx.reporting.instruments.spectra import measure_step_spectra
from laser_fx.reporting.instruments.trajectories import measure_trajectories
from laser_fx.reporting.report import Report

__all__ = ["filled"]

Instrument = Callable[[Report], dict[str, Any]]
"""Takes the report so far, and returns those of its fields that it measured."""


def filled(report: Report, program: Program, placed: Sequence[PlacedSite], measures: Sequence[Measure]) -> Report:
    """A report with more measured.

    Args:
        report: of the program.
        program: any program; it stays as it is.
        placed: its sites.
        measures: names of what to measure.
    """
    instruments: dict[Measure, Instrument] = {
        "picture": lambda _: {"picture": picture_of(program)},
        "spectra": lambda so_far: _spectra(so_far, program, placed),
        "trajectories": lambda _: {"trajectories": measure_trajectories(program)},
        "dynamics": lambda _: {"dynamics": measure_dynamics(program)},
    }
    for number, name in enumerate(measures):
        told("measure", number, len(measures))
        report = replace(report, **instruments[name](report))
    return report


def _spectra(report: Report, program: Program, placed: Sequence[PlacedSite]) -> dict[str, Any]:
    found = measure_step_spectra(program, placed)
    return {"sites": tuple(replace(s, spectra=found.get(s.site.key, ())) for s in report.sites)}
