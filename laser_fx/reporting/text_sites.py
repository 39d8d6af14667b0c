"""The sites of a report as a table: two lines each, with fidelity and rank drawn by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from laser_fx.loops import Site
from laser_fx.reporting import format as fmt
from laser_fx.reporting.parts import ENERGIES, SiteReport
from laser_fx.reporting.series import levels, shortened
from laser_fx.reporting.spark import bars, fidelity_bars, worst_of

__all__ = ["legend", "sites_table"]

_NARROW = 100
"""Below it some columns are left out: they stand in the JSON."""
_MOST_ROWS = 200
_LONG = 36


def sites_table(sites: Sequence[SiteReport], threshold: float, width: int) -> Iterator[RenderableType]:
    """The table, and a word about the sites that it leaves out.

    Args:
        sites: in program order; a table of a hundred thousand rows helps nobody, so the first 200 are shown.
        threshold: the fidelity that bars are drawn about.
        width: of the page, in columns.
    """
    wide, ran = width >= _NARROW, any(site.steps for site in sites)
    drawn = ran or any(site.spectra for site in sites)
    table = Table(box=None, pad_edge=False, header_style="dim")
    shared = _shared([site.site.name for site in sites], _LONG if wide else _LONG // 2)
    title = f"site in {shared}:\n" if shared else "site: "
    table.add_column(Text(title + ("loop, N × D → F" if wide else "loop")), overflow="fold")
    for title in ("steps", "k", *_energy_titles(wide), *(("FLOPs", "saved") if wide else ())):
        table.add_column(title, justify="right", no_wrap=True)
    if drawn:
        table.add_column(("fidelity, rank" if ran else "rank") + (" by step" if wide else ""), no_wrap=True)
    for title in _counted(wide) if ran else ():
        table.add_column(title, justify="right", no_wrap=True)
    for site in sites[:_MOST_ROWS]:
        bars_ = (_drawn(site, threshold, 22 if wide else 10),) if drawn else ()
        table.add_row(*_row(site, wide, shared), *bars_, *(_counts(site, wide) if ran else ()))
    yield table
    if len(sites) > _MOST_ROWS:
        yield Text(f"and {len(sites) - _MOST_ROWS:,} more sites: they are in the JSON, and on the page", style="yellow")


def legend(sites: Sequence[SiteReport], threshold: float) -> str:
    """What the drawings mean; empty where there are none."""
    if not any(site.steps for site in sites):
        return "k and rank by step: of 99.9 % of the energy." if any(site.spectra for site in sites) else ""
    bounds = " ".join(f"{bar} {bound:.6g}" for bar, bound in zip("▃▅▆█", levels(threshold), strict=True))
    return (
        f"{bounds} and more; x and column X: exact X. T: steps that tracked, R: that reset;"
        " k: columns of the basis, and below it what the steps needed of them."
    )


def _energy_titles(wide: bool) -> tuple[str, ...]:
    shown = ENERGIES if wide else ENERGIES[2:]
    return ("/".join(f"{100 * share:g}" for share in shown) + " %",)


def _row(report: SiteReport, wide: bool, shared: str) -> tuple[RenderableType, ...]:
    site, ranks = report.site, _ranks(report)
    sizes = f", {site.rows} × {site.features} → {site.outputs}" if wide else ""
    needed = f"\n{_range(ranks)}" if ranks else ""
    shares = (fmt.percent(report.flops_share), fmt.percent(report.saved_share)) if wide else ()
    return (
        Text.assemble(site.name.removeprefix(f"{shared}."), (f"\n  {site.loop}{sizes}{_estimated(site)}", "dim")),
        str(site.steps),
        Text.assemble("–" if site.rank is None else str(site.rank), (needed, "dim")),
        "/".join(map(str, report.rank_at if wide else report.rank_at[2:])) or "–",
        *shares,
    )


def _shared(names: Sequence[str], long: int) -> str:
    """The module that all of them lie in, where their names are too long for a line.

    >>> _shared(["trm.inner.net.qkv", "trm.inner.net.down"], 16), _shared(["net.qkv", "net.down"], 16)
    ('trm.inner.net', '')
    """
    if len(names) < 2 or max(map(len, names)) <= long:
        return ""
    modules = [name.split(".")[:-1] for name in names]
    first, last = min(modules), max(modules)  # what these share, all share
    return ".".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))


def _ranks(report: SiteReport) -> list[int]:
    """What the steps needed: of the basis where there is one, else for 99.9 % of the energy."""
    return [step.rank for step in report.steps] or [s.ranks[-1] for s in report.spectra if s.ranks]


def _estimated(site: Site) -> str:
    """Only of an activation is it measured what a basis keeps."""
    return "" if site.objective in (None, "activation") else f"; {site.objective}, fidelity estimated"


def _drawn(report: SiteReport, threshold: float, width: int) -> Text:
    of_rank = bars(worst_of(_ranks(report), width)) or "–"
    if not report.steps:
        return Text(of_rank)
    return Text.assemble(fidelity_bars(shortened(report.steps, width), threshold), (f"\n{of_rank}", "dim"))


def _range(ranks: Sequence[int]) -> str:
    least, most = min(ranks), max(ranks)
    return str(most) if least == most else f"{least}–{most}"


def _counted(wide: bool) -> tuple[str, ...]:
    return ("lowest", "T", "R", "X") if wide else ("lowest", "X")


def _counts(report: SiteReport, wide: bool) -> tuple[RenderableType, ...]:
    counts = [str(count) if report.steps else "–" for count in (report.tracked, report.resets)] if wide else []
    exact = Text(str(report.exact) if report.steps else "–", style="bold red" if report.exact else "")
    return fmt.fidelity(report.lowest_fidelity), *counts, exact
