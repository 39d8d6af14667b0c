"""The nest for Graphviz: a cluster for each loop, its sites with rank and fidelity, what is carried going back."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from laser_fx.errors import MissingDependencyError
from laser_fx.files import check_target, write_text
from laser_fx.loops import Loop
from laser_fx.marks import printable
from laser_fx.reporting import format as fmt
from laser_fx.reporting.flow import flows
from laser_fx.reporting.parts import SiteReport
from laser_fx.reporting.series import level, levels

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["MOST_SITES", "dot", "svg", "write_svg"]

MOST_SITES = 200
"""More sites than this, in one loop, are counted and not drawn."""

SECONDS = 120  # after which a layout is given up
FILLS = ("#fdd0a2", "#deebf7", "#c6dbef", "#9ecae1", "#6baed6")
"""From below the threshold to near 1, all light enough for black text."""


def dot(report: Report) -> str:
    r"""The nest in Graphviz's language, DOT.

    Whatever the model calls its parts is quoted: it can neither end a string nor be read as HTML.

    >>> from laser_fx.loops import LoopNest, Site
    >>> from laser_fx.reporting import Report
    >>> site = SiteReport(Site('a"b', "loop_0", "a.weight", 8, 32, 16, 4, rank=4))
    >>> text = dot(Report("Tiny", LoopNest((Loop("loop_0", 4, carry=("z: float32[8]",)),)), (site,)))
    >>> print(*[line for line in text.splitlines() if "label=" in line and "->" not in line], sep="\n")
        label="loop_0 × 4";
        "loop_0" [label="carry\nz: float32[8]", shape=ellipse, style="filled,dashed", fillcolor=white];
        "loop_0:a\"b" [label="a\"b\n32 → 16, k 4", fillcolor=white];
    """
    return "\n".join(_lines(report)) + "\n"


def svg(text: str) -> str:
    """DOT as SVG, laid out by Graphviz's program ``dot``.

    Raises:
        MissingDependencyError: ``dot`` is not installed, or fails.
    """
    program = shutil.which("dot")
    if program is None:
        raise MissingDependencyError("Graphviz's program dot is missing", where="to_svg", fix=_FIX)
    try:
        done = subprocess.run([program, "-Tsvg"], input=text.encode(), capture_output=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or b"").decode("utf-8", "replace").strip() or str(error)
        raise MissingDependencyError(
            f"Graphviz's program dot fails: {told.splitlines()[0]}", where=program, fix=_FIX
        ) from error
    return done.stdout.decode("utf-8")


_FIX = "install Graphviz (Debian: sudo apt-get install graphviz), or write to_dot() to a file for a machine that has it"


def write_svg(report: Report, path: Path, overwrite: bool) -> Path:
    """Lays out the nest and writes it beside its place, then renames it.

    Raises:
        OutputPathError: the file exists, or cannot be written there.
        MissingDependencyError: see `svg`.
    """
    check_target(path, overwrite=overwrite)
    drawn = svg(dot(report))
    write_text(path, drawn, overwrite=overwrite)
    return path


def _lines(report: Report) -> Iterator[str]:
    yield f"digraph {_quoted(report.model)} {{"
    yield '  graph [fontname="sans-serif", fontsize=11, labeljust=l, color=gray50, style=rounded];'
    yield '  node [shape=box, style=filled, fontname="sans-serif", fontsize=10, color=gray40];'
    yield '  edge [fontname="sans-serif", fontsize=9, color=gray40];'
    by_loop = _by_loop(report)
    for loop in report.loops.loops:
        yield from _cluster(report, loop, 1, by_loop)
    yield from _edges(report, by_loop)
    yield "}"


def _by_loop(report: Report) -> Mapping[str, Sequence[SiteReport]]:
    found: defaultdict[str, list[SiteReport]] = defaultdict(list)
    for site in report.sites:
        found[site.site.loop].append(site)
    return found


def _cluster(report: Report, loop: Loop, depth: int, by_loop: Mapping[str, Sequence[SiteReport]]) -> Iterator[str]:
    pad = "  " * depth
    title = f"{loop.name} × {loop.trip_count}" + (f"  {loop.source}" if loop.source else "")
    yield f"{pad}subgraph {_quoted(f'cluster_{loop.name}')} {{"
    yield f"{pad}  label={_quoted(title)};"
    carry = ", ".join(("shape=ellipse", 'style="filled,dashed"', "fillcolor=white"))
    yield f"{pad}  {_quoted(loop.name)} [label={_quoted('carry', *loop.carry)}, {carry}];"
    sites = by_loop.get(loop.name, ())
    for site in sites[:MOST_SITES]:
        yield f"{pad}  {_quoted(site.site.key)} [label={_quoted(*_told(site))}, fillcolor={_fill(report, site)}];"
    if len(sites) > MOST_SITES:
        more = f"and {fmt.whole(len(sites) - MOST_SITES)} more sites"
        yield f"{pad}  {_quoted(f'{loop.name}: more')} [label={_quoted(more)}, shape=plaintext, style=solid];"
    for child in loop.children:
        yield from _cluster(report, child, depth + 1, by_loop)
    yield f"{pad}}}"


def _told(report: SiteReport) -> Iterator[str]:
    site = report.site
    yield site.name
    yield f"{site.features} → {site.outputs}" + ("" if site.rank is None else f", k {site.rank}")
    if report.steps:
        estimated = "" if site.objective in (None, "activation") else ", estimated"
        yield f"fidelity {fmt.fidelity(report.lowest_fidelity)}{estimated}"
        yield f"reset {report.resets}, exact {report.exact} of {len(report.steps)} steps"


def _fill(report: Report, site: SiteReport) -> str:
    """Darker is nearer to 1; orange where a step had to use X itself."""
    lowest = site.lowest_fidelity
    if not site.steps:
        return "white"
    if site.exact or lowest is None:
        return _quoted(FILLS[0])
    return _quoted(FILLS[level(lowest, levels(report.options.fidelity))])


def _edges(report: Report, by_loop: Mapping[str, Sequence[SiteReport]]) -> Iterator[str]:
    drawn = set(_drawn(report, by_loop))
    known = flows(report.picture) if report.picture is not None else ()
    for source, target, goes_back in known or _as_listed(report):
        if source in drawn and target in drawn:
            style = ' [style=dashed, constraint=false, label="next step"]' if goes_back else ""
            yield f"  {_quoted(source)} -> {_quoted(target)}{style};"


def _drawn(report: Report, by_loop: Mapping[str, Sequence[SiteReport]]) -> Iterator[str]:
    for loop in report.loops.walk():
        yield loop.name
        yield from [site.site.key for site in by_loop.get(loop.name, ())[:MOST_SITES]]


def _as_listed(report: Report) -> Iterator[tuple[str, str, bool]]:
    """Without a picture nobody knows what flows between sites: only that what is carried goes back."""
    for loop in report.loops.walk():
        yield loop.name, loop.name, True


def _quoted(*lines: str) -> str:
    """Lines as one string of DOT; an ampersand would begin an entity there."""
    shown: Sequence[str] = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines]
    return '"' + "\\n".join(shown).replace("&", "&amp;") + '"'
