"""Fills a report with what its instruments measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from laser_fx.options import Options
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.program import Program
from laser_fx.progress import stage
from laser_fx.reporting.instruments.choose import Measure
from laser_fx.reporting.instruments.dynamics import measure_dynamics
from laser_fx.reporting.instruments.memory import measure_memory
from laser_fx.reporting.instruments.onnx_sizes import Export, measure_onnx
from laser_fx.reporting.instruments.picture import picture_of
from laser_fx.reporting.instruments.progress import told
from laser_fx.reporting.instruments.spectra import measure_step_spectra
from laser_fx.reporting.instruments.trajectories import measure_trajectories
from laser_fx.reporting.report import Report

__all__ = ["Doors", "filled"]

Instrument = Callable[[Report], dict[str, Any]]
"""Takes the report so far, and returns those of its fields that it measured."""


@dataclass(frozen=True)
class Doors:
    """What measuring takes from the rooms above.

    Args:
        compile_copy: compiles a copy of a model; None to leave out what a training step saves.
        export: writes an ONNX file; None to leave the files out.
    """

    compile_copy: Callable[[nn.Module, Options], Any] | None = None
    export: Export | None = None


def filled(
    report: Report, program: Program, placed: Sequence[PlacedSite], measures: Sequence[Measure], doors: Doors
) -> Report:
    """A report with more measured.

    Args:
        report: of the program.
        program: any program; it stays as it is.
        placed: its sites.
        measures: names of what to measure.
        doors: what it takes for that.
    """
    instruments: dict[Measure, Instrument] = {
        "picture": lambda _: {"picture": picture_of(program)},
        "spectra": lambda so_far: _spectra(so_far, program, placed),
        "trajectories": lambda _: {"trajectories": measure_trajectories(program)},
        "dynamics": lambda _: {"dynamics": measure_dynamics(program)},
        "memory": lambda so_far: _memory(so_far, program, doors),
        "onnx": lambda _: {"onnx": measure_onnx(program, doors.export)} if doors.export else {},
    }
    for number, name in enumerate(measures):
        told("measure", number, len(measures))
        with stage(f"measuring {name}"):
            report = replace(report, **instruments[name](report))
    return report


def _spectra(report: Report, program: Program, placed: Sequence[PlacedSite]) -> dict[str, Any]:
    found = measure_step_spectra(program, placed)
    return {"sites": tuple(replace(s, spectra=found.get(s.site.key, ())) for s in report.sites)}


def _memory(report: Report, program: Program, doors: Doors) -> dict[str, Any]:
    if doors.compile_copy is None:
        return {}
    found = measure_memory(program, doors.compile_copy)
    return {
        "memory": found.arms,
        "plan": report.plan or found.plan,
        "warnings": (*report.warnings, *found.warnings),
    }
