"""The tables of a page: what stands in them, and by what they are sorted. They are read without scripts, too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from laser_fx.reporting import format as fmt
from laser_fx.reporting.embedded import evenly
from laser_fx.reporting.groups import Shown
from laser_fx.reporting.measured import CarryTrajectory, LoopDynamics
from laser_fx.reporting.parts import ENERGIES, SiteReport
from laser_fx.reporting.series import shortened

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["Cell", "Row", "Table", "tables"]

NONE = "–"
_ROWS, _STEP_ROWS, _SPECTRA_ROWS = 1_000, 1_600, 200
"""Rows that a table has at most, those of all tables of steps together, and those of spectra."""


@dataclass(frozen=True)
class Cell:
    """``value``: what it is sorted by, where that is not its text. ``small``: what stands under it."""

    text: str
    value: float | None = None
    small: str = ""
    alarm: bool = False

    @property
    def sorted_by(self) -> float | None:
        """The value, where a script could not read it from the text."""
        known = self.value is None or math.isnan(self.value) or self.text.replace(",", "") == f"{self.value}"
        return None if known else self.value


@dataclass(frozen=True)
class Row:
    """The first cell is the row's heading. ``key``: number of the site that it is about, −1 where it is about none."""

    cells: tuple[Cell, ...]
    key: int = -1
    group: str = ""


@dataclass(frozen=True)
class Table:
    """``texts``: how many of the first columns are text. ``left_out``: rows that are not shown."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    texts: int = 1
    left_out: int = 0

    def without_empty_columns(self) -> Table:
        """What was not measured is left out."""
        keep = [i for i in range(len(self.columns)) if i == 0 or any(row.cells[i].text != NONE for row in self.rows)]
        rows = tuple(replace(row, cells=tuple(row.cells[i] for i in keep)) for row in self.rows)
        texts = sum(i < self.texts for i in keep)
        return replace(self, columns=tuple(self.columns[i] for i in keep), rows=rows, texts=texts)


def tables(report: Report, shown: Shown) -> dict[str, Table]:
    """All tables that have rows, by name."""
    made = (
        _sites(shown),
        _spectra(report, shown),
        _trajectories(report),
        _dynamics(report),
        _memory(report),
        _plan(report),
        _onnx(report),
        *_steps(shown),
    )
    return {table.name: _cut(table).without_empty_columns() for table in made if table.rows}


def _cut(table: Table) -> Table:
    return replace(table, rows=table.rows[:_ROWS], left_out=max(0, len(table.rows) - _ROWS))


def _sites(shown: Shown) -> Table:
    caption = (
        "An activation X, N × D, goes through a linear layer with F outputs. A basis of k directions is kept. The ranks"
        " that follow hold so much of ‖X‖²; energy is the share that the best k directions hold. FLOPs and saved bytes"
        " are shares of the model's."
    )
    ranks = tuple(f"Rank at {100 * share:g}\u00a0%" for share in ENERGIES)
    did = ("Lowest fidelity", "Tracked", "Reset", "Exact", "FLOPs", "Saved")
    rows = tuple(_site(key, row, count) for key, (row, count) in enumerate(zip(shown.rows, shown.counts, strict=True)))
    return Table("sites", caption, ("Site", "N × D → F", "Steps", "Rank k", *ranks, "Energy", *did), rows)


def _site(key: int, report: SiteReport, count: int) -> Row:
    site, ran = report.site, bool(report.steps)
    size = f"{site.rows:,} × {site.features:,} → {site.outputs:,}"
    ranks = [_whole(rank) for rank in report.rank_at] or [Cell(NONE)] * len(ENERGIES)
    did = [_whole(number if ran else None) for number in (report.tracked, report.resets)]
    exact = replace(_whole(report.exact if ran else None), alarm=report.exact > 0)
    small = site.loop + (f", {count:,} sites" if count > 1 else "")
    small += f", stays exact: {report.left_exact}" if report.left_exact else ""
    if site.objective not in (None, "activation"):
        small += f", basis of the {site.objective}, fidelity estimated"
    cells = (
        Cell(site.name, small=small),
        Cell(size, site.rows * site.features),
        _whole(site.steps),
        _whole(site.rank),
        *ranks,
        _fidelity(report.energy),
        _fidelity(report.lowest_fidelity),
        *did,
        exact,
        Cell(fmt.percent(report.flops_share), report.flops_share),
        Cell(fmt.percent(report.saved_share), report.saved_share),
    )
    return Row(cells, key, site.loop)


def _whole(value: int | None) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{value:,}", value)


def _fidelity(value: float | None) -> Cell:
    return Cell(fmt.fidelity(value), value)


def _number(value: float | None, digits: int = 3) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{value:.{digits}g}", value)


def _both(report: Report) -> Iterator[tuple[str, Report]]:
    yield "this model", report
    if report.control is not None:
        yield "untrained", report.control


def _spectra(report: Report, shown: Shown) -> Table:
    ranks = (f"Rank at {100 * share:g}\u00a0%" for share in ENERGIES)
    more = ("Centred, 99\u00a0%", "Effective rank", "In the mean", "Largest angle turned")
    columns = ("Site", "Of", "At step", *ranks, *more)
    found = [(of, site) for of, each in _both(report) for site in each.sites if site.spectra]
    each = max(2, min(6, _SPECTRA_ROWS // max(1, len(found))))
    rows = tuple(
        row
        for of, site in found
        if shown.counts[key := shown.row_of.get(site.site.key, 0)] == 1
        for row in _spectrum(of, key, site, each)
    )
    return Table("spectra", "Singular spectra of the activations, at some steps of the call.", columns, rows, texts=2)


def _spectrum(of: str, key: int, site: SiteReport, each: int) -> Iterator[Row]:
    for spectrum in (site.spectra[i] for i in evenly(len(site.spectra), each)):
        centred = spectrum.centred_ranks[2] if len(spectrum.centred_ranks) > 2 else None
        ranks = (*spectrum.ranks, *[None] * len(ENERGIES))[: len(ENERGIES)]
        drift = None if spectrum.drift is None else 57.29578 * spectrum.drift
        yield Row(
            (
                Cell(site.site.name, small=site.site.loop),
                Cell(of),
                _whole(spectrum.step),
                *map(_whole, ranks),
                _whole(centred),
                _number(spectrum.effective_rank),
                Cell(fmt.percent(spectrum.mean_share), spectrum.mean_share),
                Cell(NONE) if drift is None else Cell(f"{drift:.1f}°", drift),
            ),
            key,
            site.site.loop,
        )


def _trajectories(report: Report) -> Table:
    quarters = ("First change", "After a quarter", "Half", "Three quarters", "Last change")
    columns = ("Carry", "Of", "Steps", *quarters, "Converged at", "Least cosine", "Largest error")
    rows = tuple(_trajectory(of, series) for of, each in _both(report) for series in each.trajectories if series.steps)
    caption = "How far each step moves what is carried, of its norm; cosine and error against the exact model."
    return Table("trajectories", caption, columns, rows, texts=2)


def _trajectory(of: str, series: CarryTrajectory) -> Row:
    steps = series.steps
    quarters = [steps[round(quarter * (len(steps) - 1) / 4)].change for quarter in range(5)]
    cosine = min((step.cosine for step in steps if step.cosine is not None), default=None)
    error = max((step.error for step in steps if step.error is not None), default=None)
    reached = _whole(series.converged_at)
    cells = (Cell(series.carry, small=series.loop), Cell(of), _whole(steps[-1].step + 1))
    return Row((*cells, *map(_number, quarters), reached, _number(cosine, 6), _number(error)), group=series.loop)


def _dynamics(report: Report) -> Table:
    columns = ("Loop", "Of", "Numbers carried", "Steps measured", "First radius", "Last radius", "Largest norm")
    rows = tuple(_dynamic(of, loop) for of, each in _both(report) for loop in each.dynamics)
    caption = "The radius is the largest modulus of an eigenvalue of one step's Jacobian: below 1 the step contracts."
    return Table("dynamics", caption, (*columns, "Contracting"), rows, texts=2)


def _dynamic(of: str, loop: LoopDynamics) -> Row:
    first, last = (loop.steps[0].radius, loop.steps[-1].radius) if loop.steps else (None, None)
    norm = max((step.norm for step in loop.steps if step.norm is not None), default=None)
    unknown = "undecided" if loop.steps and loop.not_measured is None else NONE
    answer = {None: unknown, True: "yes", False: "no"}[loop.contracting]
    why = f"not measured: {loop.not_measured}" if loop.not_measured else ""
    measured = (_whole(len(loop.steps)), _number(first), _number(last), _number(norm), Cell(answer))
    return Row((Cell(loop.loop, small=why), Cell(of), _whole(loop.size), *measured), group=loop.loop)


def _memory(report: Report) -> Table:
    kinds = list(dict.fromkeys(kind for arm in report.memory for kind in arm.classes))
    eager = report.memory[0].total if report.memory else 0
    rows = []
    for arm in report.memory:
        parts = [_bytes(arm.classes.get(kind, 0)) for kind in kinds]
        time = Cell(NONE) if arm.time is None else Cell(f"{arm.time:.2f}×", arm.time)
        cells = (Cell(arm.name), _bytes(arm.total), Cell(fmt.factor(arm.total, eager), arm.total), *parts, time)
        rows.append(Row((*cells, _number(arm.gradient_error, 2))))
    columns = ("Way of training", "In all", "Of eager", *kinds, "Time of a step", "Gradients off by")
    return Table("memory", "Bytes held for backward by one training step, weights not counted.", columns, tuple(rows))


def _bytes(value: int | None) -> Cell:
    return Cell(NONE) if value is None else Cell(fmt.bytes_(value), value)


def _plan(report: Report) -> Table:
    columns = ("Value", "Segment", "Operator", "Codec", "Shape", "Before", "After", "Time", "Gradients off by")
    rows = []
    for row in report.plan.rows if report.plan else ():
        shape = Cell(" × ".join(map(str, row.shape)), _product(row.shape))
        texts = (Cell(row.value, small=row.site), Cell(row.segment), Cell(row.operator), Cell(row.codec))
        numbers = (_bytes(row.before), _bytes(row.after), Cell(f"{1e3 * row.time:.2f} ms", row.time))
        rows.append(Row((*texts, shape, *numbers, _number(row.error, 2)), group=row.segment))
    caption = "Every value that eager or the plan keeps for backward, over all steps of a call."
    return Table("plan", caption, columns, tuple(rows), texts=4)


def _product(sizes: Sequence[Any]) -> float:
    product = 1.0
    for size in sizes:
        product *= size
    return product


def _onnx(report: Report) -> Table:
    rows = tuple(
        Row((Cell(size.form, small=f"refused: {size.refused}" if size.refused else ""), _bytes(size.bytes), nodes))
        for size in report.onnx
        for nodes in [_whole(size.nodes)]
    )
    return Table("onnx", "Size of the exported file, by form; weights are counted in.", ("Form", "Size", "Nodes"), rows)


def _steps(shown: Shown) -> Iterable[Table]:
    """One table a site; where there are many, of stretches of steps, each with its lowest fidelity."""
    ran = sum(bool(site.steps) for site in shown.rows)
    each = max(4, min(48, _STEP_ROWS // max(1, ran)))
    for key, report in enumerate(shown.rows):
        rows = tuple(
            Row((Cell(_span(s.first, s.last)), _fidelity(s.fidelity), _whole(s.rank), Cell(_what(s))))
            for s in shortened(report.steps, each)
        )
        caption = f"{report.site.name} in {report.site.loop}"
        yield Table(f"steps-{key}", caption, ("Step", "Fidelity", "Rank", "Basis"), rows)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} – {last}"


def _what(step: Any) -> str:
    return "exact X" if step.exact else "reset" if step.reset else "tracked" if step.tracked else "kept"
