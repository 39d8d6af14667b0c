"""A report inside of its page: as JSON that cannot end its element, and whole, compressed, for download."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from laser_fx.reporting.groups import shown_sites
from laser_fx.reporting.parts import SiteReport

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["BUDGET", "Packed", "evenly", "packed", "safe_json"]

BUDGET = 950_000
"""Characters that the whole report may take in the page."""
_VALUES, _STEPS, _SITES = 40_000, 100_000, 5_000
"""Singular values that are kept where all are too many; steps and sites up to which it is worth trying to keep them."""
_ESCAPES = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Packed:
    """A report's JSON, compressed with gzip and written in base64.

    Args:
        text: what stands in the page.
        left_out: what of the report is not in it, one sentence; None where all of it is.
    """

    text: str
    left_out: str | None = None


def safe_json(data: Any) -> str:
    r"""JSON that may stand in a script element: no character in it means anything to HTML.

    >>> print(safe_json({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def packed(report: Report, budget: int = BUDGET) -> Packed:
    """The whole report, or as much of it as the budget allows: singular values go first, then steps.

    >>> from laser_fx.reporting import Report
    >>> packed(Report("Tiny")).left_out is None
    True
    """
    smallest = Packed("")
    for left_out, make in _attempts(report):
        text = json.dumps(make().to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        smallest = Packed(base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode(), left_out)
        if len(smallest.text) <= budget:
            break
    return smallest


def evenly(count: int, at_most: int) -> list[int]:
    """Indices from the first to the last, evenly apart.

    >>> evenly(5, 9), evenly(100, 4)
    ([0, 1, 2, 3, 4], [0, 33, 66, 99])
    """
    if count <= at_most:
        return list(range(count))
    return sorted({round(i * (count - 1) / max(1, at_most - 1)) for i in range(at_most)})


def _attempts(report: Report) -> Iterator[tuple[str | None, Callable[[], Report]]]:
    every = "Report.to_dict() has all of it."
    few = len(report.sites) <= _SITES and sum(len(site.steps) for site in report.sites) <= _STEPS
    if few and _values(report) <= 4 * _VALUES:
        yield None, lambda: report
    if few:
        if _values(report):
            yield f"Spectra are those of some steps. {every}", lambda: _changed(report, _fewer_spectra(report))
        yield f"Spectra are left out. {every}", lambda: _changed(report, _no_spectra)
    if len(report.sites) <= _SITES:
        yield f"Spectra and single steps are left out. {every}", lambda: _changed(report, _totals)
    yield f"Sites are put together in groups, steps and spectra are left out. {every}", lambda: _in_groups(report)


def _values(report: Report) -> int:
    """How many numbers its spectra are."""
    own = sum(len(spectrum.values) + 10 for site in report.sites for spectrum in site.spectra)
    return own + (_values(report.control) if report.control else 0)


def _count(report: Report) -> int:
    own = sum(len(site.spectra) for site in report.sites)
    return own + (_count(report.control) if report.control else 0)


def _changed(report: Report, change: Callable[[SiteReport], SiteReport]) -> Report:
    control = _changed(report.control, change) if report.control else None
    return replace(report, sites=tuple(map(change, report.sites)), control=control)


def _fewer_spectra(report: Report) -> Callable[[SiteReport], SiteReport]:
    series = sum(bool(site.spectra) for site in report.sites) * (1 if report.control is None else 2)
    each = max(2, _VALUES * _count(report) // (max(1, _values(report)) * max(1, series)))

    def fewer(site: SiteReport) -> SiteReport:
        return replace(site, spectra=tuple(site.spectra[i] for i in evenly(len(site.spectra), each)))

    return fewer


def _no_spectra(site: SiteReport) -> SiteReport:
    return replace(site, spectra=())


def _totals(site: SiteReport) -> SiteReport:
    return replace(site, spectra=(), steps=())


def _in_groups(report: Report) -> Report:
    control = _in_groups(report.control) if report.control else None
    return replace(report, sites=tuple(map(_totals, shown_sites(report.sites).rows)), control=control)
