"""A report for a terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from laser_fx.loops import Loop, Site
from laser_fx.reporting import format as fmt
from laser_fx.reporting.parts import ENERGIES, SiteReport
from laser_fx.reporting.series import Stretch, level, levels, shortened

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["counted", "print_report", "render", "sparkline"]

WIDTH = 120  # where nobody says how wide the page is
SPARK_WIDTH = 24
BARS = "▁▃▅▆█"


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Prints to a file; in colour where it is a terminal. What its encoding lacks is printed as ``?``."""
    out = sys.stdout if file is None else file
    if out.isatty():
        Console(file=out).print(_page(report))
        return
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(render(report).encode(encoding, "replace").decode(encoding) + "\n")


def render(report: Report) -> str:
    """The report as plain text, `WIDTH` columns wide at most."""
    buffer = io.StringIO()
    Console(file=buffer, width=WIDTH, color_system=None, legacy_windows=False).print(_page(report))
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "loop"), counted(2, "loop")
    ('1 loop', '2 loops')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def sparkline(stretches: Sequence[Stretch], threshold: float) -> str:
    """One character for each stretch: higher bars are closer to 1, see `levels`; ``x`` where X was used exactly.

    >>> from laser_fx.loops import Step
    >>> fidelities = (0.5, 0.99, 0.995, 0.998, 0.99999)
    >>> sparkline(shortened([Step(f, 4, False, False, f < 0.9) for f in fidelities], at_most=5), threshold=0.99)
    'x▃▅▆█'
    """
    bounds = levels(threshold)
    return "".join("x" if stretch.exact else BARS[level(stretch.fidelity, bounds)] for stretch in stretches)


def _page(report: Report) -> Group:
    return Group(*_sections(report))


def _sections(report: Report) -> Iterator[RenderableType]:
    yield _nest(report)
    if report.sites:
        yield Padding(_sites(report), (1, 0, 0, 0))
    if _ran(report):
        yield Text(_legend(report.options.fidelity), style="dim")
    totals = _totals(report)
    if totals.row_count:
        yield Padding(totals, (1, 0, 0, 0))
    for site in report.sites:
        if site.left_exact:
            yield Text(f"{site.site.key} stays exact: {site.left_exact}", style="dim")
    for miss in report.near_misses:
        yield Text.assemble(("nearly a loop: ", "cyan"), str(miss))
    for warning in report.warnings:
        yield Text(f"warning: {warning}", style="yellow")
    yield Text("  ".join(f"{name} {value}" for name, value in report.environment.items()), style="dim")


def _legend(threshold: float) -> str:
    bounds = " ".join(f"{bar} {bound:.6g}" for bar, bound in zip(BARS[1:], levels(threshold), strict=True))
    return f"{bounds} and more; x and column X: exact X. T: steps that tracked, R: that reset."


def _nest(report: Report) -> Tree:
    nodes = "" if report.graph is None else f"  {report.graph.captured:,} nodes → {report.graph.rolled:,}"
    tree = Tree(Text.assemble((report.model, "bold"), (nodes, "dim")))
    for loop in report.loops.loops:
        _grow(tree, loop)
    if not report.loops:
        tree.add(Text("no weight-shared loop", style="dim"))
    return tree


def _grow(tree: Tree, loop: Loop) -> None:
    grad = "  with gradient" if loop.grad_enabled else ""
    heading = Text.assemble((f"{loop.name} × {loop.trip_count}", "bold cyan"), grad, (f"  {loop.source or ''}", "dim"))
    branch = tree.add(heading)
    values = {"carry": loop.carry, "per step": loop.per_step, "step output": loop.step_outputs}
    for kind, names in values.items():
        for name in names:
            branch.add(Text.assemble((f"{kind}  ", "dim"), name))
    counts = (counted(len(loop.invariants), "invariant"), counted(len(loop.parameters), "weight"))
    branch.add(Text(", ".join(counts), style="dim"))
    for child in loop.children:
        _grow(branch, child)


def _sites(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site: loop, N × D → F", overflow="fold")
    energies = "/".join(f"{100 * share:g}" for share in ENERGIES) + " %"
    for title in ("steps", "k", energies, "FLOPs", "saved"):
        table.add_column(title, justify="right", no_wrap=True)
    if _ran(report):
        table.add_column("fidelity by step", no_wrap=True)
        for title in ("lowest", "T", "R", "X"):
            table.add_column(title, justify="right", no_wrap=True)
    for site in report.sites:
        done = _steps(site, report.options.fidelity) if _ran(report) else ()
        table.add_row(*_row(site), *done)
    return table


def _ran(report: Report) -> bool:
    """Whether any basis was used: an inspection uses none."""
    return any(site.steps for site in report.sites)


def _row(report: SiteReport) -> tuple[RenderableType, ...]:
    site = report.site
    place = f"\n  {site.loop}, {site.rows} × {site.features} → {site.outputs}{_estimated(site)}"
    return (
        Text.assemble(site.name, (place, "dim")),
        str(site.steps),
        "–" if site.rank is None else str(site.rank),
        "/".join(map(str, report.rank_at)) or "–",
        fmt.percent(report.flops_share),
        fmt.percent(report.saved_share),
    )


def _estimated(site: Site) -> str:
    """Only of an activation is it measured what a basis keeps."""
    return "" if site.objective in (None, "activation") else f"; {site.objective}, fidelity estimated"


def _steps(report: SiteReport, threshold: float) -> tuple[RenderableType, ...]:
    counts = (str(count) if report.steps else "–" for count in (report.tracked, report.resets))
    exact = Text(str(report.exact) if report.steps else "–", style="bold red" if report.exact else "")
    bars = Text(sparkline(shortened(report.steps, SPARK_WIDTH), threshold) or "–")
    return bars, fmt.fidelity(report.lowest_fidelity), *counts, exact


def _totals(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("")
    for title in ("eager", "laser-fx", "", "at sites: eager", "laser-fx", ""):
        table.add_column(title, justify="right", no_wrap=True)
    if flops := report.flops:
        table.add_row("FLOPs", *_change(fmt.count, flops.total, flops.laser_total, flops.sites, flops.laser))
    if saved := report.saved_bytes:
        changes = saved.eager, saved.laser, saved.eager_sites, saved.laser_sites
        table.add_row("saved for backward", *_change(fmt.bytes_, *changes))
    return table


def _change(show: Callable[[float], str], *pairs: int | None) -> Iterator[str]:
    """Before, after and factor of each pair."""
    for before, after in zip(pairs[::2], pairs[1::2], strict=True):
        yield "–" if before is None else show(before)
        yield "–" if after is None else show(after)
        yield fmt.factor(after, before or 0)
