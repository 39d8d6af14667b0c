"""What a report measures besides its sites, as tables: trajectories, dynamics, memory, files, the untrained control."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from laser_fx.reporting import format as fmt
from laser_fx.reporting.measured import CarryTrajectory, LoopDynamics, MemoryArm, OnnxSize
from laser_fx.reporting.parts import ENERGIES, SiteReport
from laser_fx.reporting.spark import bars, worst_of

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["measured_tables"]

_WIDTH = 16
_MOST_SITES = 20


def measured_tables(report: Report) -> Iterator[RenderableType]:
    """A table for everything that was measured, with an empty line before it."""
    if report.trajectories:
        yield _spaced(_trajectories(report.trajectories))
    if report.dynamics:
        yield _spaced(_dynamics(report.dynamics))
    if report.memory:
        yield _spaced(_memory(report.memory))
    if report.plan is not None:
        kept, before = fmt.bytes_(report.plan.after), fmt.bytes_(report.plan.before)
        share = fmt.percent(report.plan.fraction)
        yield Text(f"the plan keeps {kept} of {before}, {share}, in {len(report.plan.rows)} values", style="dim")
    if report.onnx:
        yield _spaced(_onnx(report.onnx))
    if report.control is not None and report.control.sites:
        yield _spaced(_control(report.sites, report.control.sites))


def _spaced(table: Table) -> Padding:
    return Padding(table, (1, 0, 0, 0))


def _table(first: str, *titles: str, drawn: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    if drawn is not None:
        table.add_column(drawn, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _trajectories(trajectories: Sequence[CarryTrajectory]) -> Table:
    table = _table("carry", "first", "last", "still from", "cosine", drawn="change, log scale")
    for one in trajectories:
        changes = [math.nan if step.change is None else step.change for step in one.steps]
        cosines = [step.cosine for step in one.steps if step.cosine is not None]
        still = "–" if one.converged_at is None else f"step {one.converged_at}"
        ends = (
            (fmt.significant(one.steps[0].change), fmt.significant(one.steps[-1].change)) if one.steps else ("–", "–")
        )
        cosine = fmt.fidelity(min(cosines)) if cosines else "–"
        name = Text.assemble((f"{one.loop} ", "dim"), one.carry)
        table.add_row(name, _by_magnitude(worst_of(changes, _WIDTH)), *ends, still, cosine)
    return table


def _by_magnitude(values: Sequence[float]) -> str:
    """Bars of logarithms: a carry that settles falls by the same factor again and again."""
    logs = [math.log10(value) if value > 0 else math.nan for value in values]
    drawn = bars(logs, low=min((value for value in logs if not math.isnan(value)), default=0.0))
    return drawn.replace("?", " ")  # a carry of zeros has no norm to change by


def _dynamics(dynamics: Sequence[LoopDynamics]) -> Table:
    table = _table("loop", "last |λ|", "largest", "norm", "", drawn="largest |λ| by step")
    for one in dynamics:
        if not one.steps:
            table.add_row(one.loop, Text(one.not_measured or "not measured", style="dim"), "–", "–", "–", "")
            continue
        radii, last = [step.radius for step in one.steps], one.steps[-1]
        verdict = _verdict(one)
        numbers = (fmt.significant(last.radius), fmt.significant(max(radii)), fmt.significant(last.norm))
        table.add_row(one.loop, bars(worst_of(radii, _WIDTH)), *numbers, verdict)
    return table


def _verdict(dynamics: LoopDynamics) -> Text:
    if dynamics.not_measured is not None:
        return Text(f"after that: {dynamics.not_measured}", style="dim")
    if dynamics.contracting is None:
        return Text("undecided", style="dim")
    return Text("contracting", style="green") if dynamics.contracting else Text("expanding", style="yellow")


def _memory(arms: Sequence[MemoryArm]) -> Table:
    """A column for each way: there are few of them, and a terminal is narrow."""
    table = _table("kept for backward", *(arm.name for arm in arms))
    for name in dict.fromkeys(name for arm in arms for name in arm.classes):
        table.add_row(name, *(fmt.bytes_(arm.classes.get(name, 0)) for arm in arms))
    table.add_row("all", *(fmt.bytes_(arm.total) for arm in arms))
    table.add_row("of eager", *(fmt.factor(arm.total, arms[0].total) for arm in arms))
    table.add_row("time", *("–" if arm.time is None else f"{arm.time:.2f}×" for arm in arms))
    table.add_row("gradient off by", *(fmt.significant(arm.gradient_error) for arm in arms))
    return table


def _onnx(files: Sequence[OnnxSize]) -> Table:
    table = _table("ONNX", "bytes", "nodes")
    table.add_column("", overflow="fold")
    for file in files:
        nodes = "–" if file.nodes is None else f"{file.nodes:,}"
        table.add_row(file.form, "–" if file.bytes is None else fmt.bytes_(file.bytes), nodes, Text(file.refused or ""))
    return table


def _control(trained: Sequence[SiteReport], control: Sequence[SiteReport]) -> Table:
    """Ranks beside those of the same model with weights drawn anew: low rank that training did not bring."""
    energies = "/".join(f"{100 * share:g}" for share in ENERGIES) + " %"
    table = _table(f"rank at {energies}", "this model", "untrained")
    others = {site.site.key: site for site in control}
    for site in trained[:_MOST_SITES]:
        other = others.get(site.site.key)
        ranks = ("/".join(map(str, one.rank_at)) if one and one.rank_at else "–" for one in (site, other))
        table.add_row(Text(site.site.key), *ranks)
    if len(trained) > _MOST_SITES:
        table.add_row(Text(f"and {len(trained) - _MOST_SITES:,} more", style="dim"))
    return table
