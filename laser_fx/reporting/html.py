"""A report as one HTML page that needs no other file and no network; its tables are read without scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_fx.errors import MissingDependencyError
from laser_fx.files import check_target, write_text
from laser_fx.reporting import format as fmt
from laser_fx.reporting.embedded import packed, safe_json
from laser_fx.reporting.groups import shown_sites
from laser_fx.reporting.page_data import page_data
from laser_fx.reporting.prose import deepest, found, introduction
from laser_fx.reporting.tables import tables
from laser_fx.reporting.vendored import hash_of, libraries, script, style

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["render", "write"]

_MANY = 200
"""Loops, warnings and near-misses that are written out."""


@dataclass(frozen=True)
class Bar:
    """One stacked bar: the part at sites, and the rest, each as a share of the longest bar of its chart."""

    label: str
    total: str
    parts: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Chart:
    """Bars on one scale."""

    title: str
    change: str
    bars: tuple[Bar, ...]


def write(report: Report, path: Path, overwrite: bool) -> Path:
    """Writes the page beside its place and renames it, so that nobody reads half of one.

    Raises:
        OutputPathError: the file exists, or cannot be written there.
    """
    check_target(path, overwrite=overwrite)
    write_text(path, render(report), overwrite=overwrite)
    return path


def render(report: Report) -> str:
    """The page as text. All that comes from the model is escaped."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        fix = "pip install 'laser-fx[report]'"
        raise MissingDependencyError(
            "the page is made with jinja2, which is missing", where="to_html", fix=fix
        ) from error
    environment = Environment(
        loader=PackageLoader("laser_fx.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(_context(report))


def _context(report: Report) -> dict[str, Any]:
    shown = shown_sites(report.sites)
    sources = [*libraries(), script()]
    return {
        "report": report,
        "introduction": introduction(report),
        "found": found(report),
        "facts": list(_facts(report)),
        "charts": list(_charts(report)),
        "many": _MANY,
        "loop_count": sum(1 for _ in report.loops.walk()),
        "shown": shown,
        "tables": tables(report, shown),
        "made_with": [*asdict(report.options).items(), *report.environment.items()],
        "style": style(),
        "sources": sources,
        "policy": f"script-src {' '.join(map(hash_of, sources))}",
        "data": safe_json(page_data(report, shown)),
        "packed": packed(report),
    }


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """What the reader wants to know first."""
    yield "deepest nest", " × ".join(map(str, deepest(report.loops))) or "no loop"
    yield "sites", f"{len(report.sites):,}"
    lowest = [site.lowest_fidelity for site in report.sites if site.lowest_fidelity is not None]
    if lowest:
        yield "lowest fidelity", fmt.fidelity(min(lowest))
        steps = sum(len(site.steps) for site in report.sites)
        yield "steps with exact X", f"{sum(site.exact for site in report.sites):,} of {steps:,}"
    for chart in _charts(report):
        yield chart.title, chart.change


def _charts(report: Report) -> Iterator[Chart]:
    if flops := report.flops:
        pairs = [("eager", flops.total, flops.sites), ("laser-fx", flops.laser_total, flops.laser)]
        yield _chart("FLOPs of one call", fmt.count, pairs)
    if saved := report.saved_bytes:
        pairs = [("eager", saved.eager, saved.eager_sites), ("laser-fx", saved.laser, saved.laser_sites)]
        yield _chart("saved for backward", fmt.bytes_, pairs)
    if graph := report.graph:
        chart = _chart("graph nodes", fmt.whole, [("captured", graph.captured, 0), ("re-rolled", graph.rolled, 0)])
        yield replace(chart, change=f"{graph.captured:,} → {graph.rolled:,}")


def _chart(title: str, show: Callable[[float], str], bars: list[tuple[str, int | None, int | None]]) -> Chart:
    measured = [(label, total, at_sites or 0) for label, total, at_sites in bars if total is not None]
    longest = max(total for _, total, _ in measured) or 1
    change = fmt.factor(measured[-1][1], measured[0][1]) if len(measured) > 1 else show(measured[0][1])
    return Chart(title, change, tuple(_bar(*bar, show, longest) for bar in measured))


def _bar(label: str, total: int, at_sites: int, show: Callable[[float], str], longest: int) -> Bar:
    sizes = {"at sites": at_sites, "elsewhere": total - at_sites} if at_sites else {"all": total}
    return Bar(label, show(total), tuple((kind, show(size), size / longest) for kind, size in sizes.items()))
