"""A report for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from laser_fx.loops import Loop
from laser_fx.reporting import format as fmt
from laser_fx.reporting.terminal import Harmless, console, encoding_of, plain_text
from laser_fx.reporting.text_measured import measured_tables
from laser_fx.reporting.text_sites import legend, sites_table

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["WIDTH", "counted", "print_report", "render"]

WIDTH = 120  # where nobody says how wide the page is
_LEAST_WIDTH = 80
"""A narrower terminal breaks lines by itself: in columns narrower than this the words go first."""
_MOST_LINES = 200
"""Sites that stay exact, near-misses and warnings that are written out, of each."""


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Prints to a file; in colour where it is a terminal. What its encoding lacks is spelled with what it has."""
    out = sys.stdout if file is None else file
    terminal = console(out)
    if terminal.is_terminal:
        terminal.width = max(terminal.width, _LEAST_WIDTH)
        terminal.print(_page(report, terminal.width))
        return
    out.write(render(report, encoding=encoding_of(out)) + "\n")


def render(report: Report, *, encoding: str = "utf-8") -> str:
    """The report as plain text, `WIDTH` columns wide at most, in the characters of an encoding."""
    return plain_text(_page(report, WIDTH), WIDTH, encoding)


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "loop"), counted(2, "loop")
    ('1 loop', '2 loops')
    """
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _page(report: Report, width: int) -> Harmless:
    return Harmless(Group(*_sections(report, width)))


def _sections(report: Report, width: int) -> Iterator[RenderableType]:
    yield _nest(report)
    if report.sites:
        yield Text()
        yield from sites_table(report.sites, report.options.fidelity, width)
    if explained := legend(report.sites, report.options.fidelity):
        yield Text(explained, style="dim")
    totals = _totals(report)
    if totals.row_count:
        yield Padding(totals, (1, 0, 0, 0))
    yield from measured_tables(report)
    exact = [site for site in report.sites if site.left_exact]
    for site in exact[:_MOST_LINES]:
        yield Text(f"{site.site.key} stays exact: {site.left_exact}", style="dim")
    yield from _more(exact, "sites that stay exact")
    for miss in report.near_misses[:_MOST_LINES]:
        yield Text.assemble(("nearly a loop: ", "cyan"), str(miss))
    yield from _more(report.near_misses, "near-misses")
    for warning in report.warnings[:_MOST_LINES]:
        yield Text(f"warning: {warning}", style="yellow")
    yield from _more(report.warnings, "warnings")
    yield Text("  ".join(f"{name} {value}" for name, value in report.environment.items()), style="dim")


def _more(entries: Sequence[object], noun: str) -> Iterator[Text]:
    if len(entries) > _MOST_LINES:
        yield Text(f"and {len(entries) - _MOST_LINES:,} more {noun}: they are in the JSON", style="yellow")


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
