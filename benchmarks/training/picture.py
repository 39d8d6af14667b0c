"""The picture: what every arm keeps, against the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.training.pareto import front

__all__ = ["draw"]

_MEASURES = (("held_of_eager", "held for backward, % of eager's"), ("peak_of_eager", "peak of a step, % of eager's"))
_HEIGHT = 6.0
"""Inches of a row."""
_COLOURS = {"eager": "#1f5fa8", "inductor": "#c2571a"}
_OFFSETS = tuple(
    (dx, dy)
    for r in (1, 2, 3)
    for dx, dy in ((6, 4), (6, -9), (-6, 4), (-6, -9), (0, 9), (0, -15))
    for dx, dy in [(dx * r, dy * r)]
)


def draw(recorded: Mapping[str, Any], path: Path) -> None:
    """One row of panels for each case, what is held on the left, the peak of the step on the right."""
    cases: Sequence[Mapping[str, Any]] = recorded["cases"]
    figure, axes = plt.subplots(len(cases), 2, figsize=(16, _HEIGHT * len(cases)), squeeze=False)
    for line, case in zip(axes, cases, strict=True):
        for panel, (key, label) in zip(line, _MEASURES, strict=True):
            _panel(panel, case["rows"], key)
            panel.set_title(case["title"], fontsize=11, loc="left")
            panel.set_xlabel(label)
            panel.set_ylabel("time of a step, × eager's")
    figure.legend(handles=_legend(), loc="upper center", ncols=4, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / (_HEIGHT * len(cases))))
    for line, case in zip(axes, cases, strict=True):
        for panel, (key, _) in zip(line, _MEASURES, strict=True):
            _name(panel, case["rows"], key)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _panel(panel: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    panel.set_xscale("log")
    panel.grid(True, which="both", color="#e6e6e6", linewidth=0.7)
    panel.set_axisbelow(True)
    for engine, colour in _COLOURS.items():
        best = front([row for row in rows if row["engine"] == engine], key)
        x, y = [100 * row[key] for row in best], [row["time_of_eager"] for row in best]
        panel.step(x, y, where="post", color=colour, linewidth=1.2, alpha=0.55)
    for row in rows:
        colour = _COLOURS[row["engine"]]
        panel.plot(
            100 * row[key],
            row["time_of_eager"],
            marker="D" if row["ours"] else "o",
            markersize=8 if row["ours"] else 7,
            markeredgecolor=colour,
            markerfacecolor=(colour if row["ours"] else "white"),
            linestyle="",
        )
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.margins(x=0.12, y=0.12)


def _name(panel: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    """Every point's name beside it, where it covers the least of what is there already."""
    renderer = panel.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    points = [panel.transData.transform((100 * row[key], row["time_of_eager"])) for row in rows]
    taken: list[Any] = []
    inside = panel.get_window_extent(renderer)
    for row in sorted(rows, key=lambda row: (not row["ours"], row[key])):
        options = []
        for rank, (dx, dy) in enumerate(_OFFSETS):
            label = panel.annotate(
                row["short"] + ("" if row["exact"] else " ≈"),
                (100 * row[key], row["time_of_eager"]),
                (dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=8.5,
                color=_COLOURS[row["engine"]],
                fontweight="bold" if row["ours"] else "normal",
            )
            box = label.get_window_extent(renderer)
            covered = sum(box.overlaps(other) for other in taken) * 3
            covered += sum(box.padded(3).contains(*other) for other in points) * 2
            outside = not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))
            options.append((covered + 5 * outside + rank / 20, rank, label, box))
        chosen = min(options, key=lambda option: option[:2])
        for option in options:
            if option is not chosen:
                option[2].remove()
        taken.append(chosen[3])


def _legend() -> list[Line2D]:
    def mark(marker: str, colour: str, filled: bool, label: str) -> Line2D:
        face = colour if filled else "white"
        return Line2D([], [], marker=marker, linestyle="-", color=colour, markerfacecolor=face, label=label)

    return [
        mark("D", _COLOURS["eager"], True, "laser-fx, operator by operator"),
        mark("o", _COLOURS["eager"], False, "peers, operator by operator"),
        mark("D", _COLOURS["inductor"], True, "laser-fx, compiled by inductor"),
        mark("o", _COLOURS["inductor"], False, "peers, compiled by inductor"),
    ]
