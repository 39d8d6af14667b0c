"""The picture: how far each supervision step moves each puzzle's state, and the spectral radius of the loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator

from benchmarks.dynamics.page import radius

__all__ = ["draw"]

_COLOURS = {"trained": "#12355b", "untrained": "#b3541e"}
_UNSOLVED = "#2f7fc1"
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
_MARKS = ("o", "s", "^", "D")


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write the picture, PNG."""
    models = figures["models"]
    figure, axes = plt.subplots(2, len(models), figsize=(5.4 * len(models), 7.2), squeeze=False, layout="constrained")
    for column, (name, model) in enumerate(models.items()):
        _changes(axes[0][column], model)
        _radii(axes[1][column], model)
        axes[0][column].set_title(name)
    axes[0][0].set_ylabel("‖Δz‖ / ‖z‖, a line a puzzle")
    axes[1][0].set_ylabel("spectral radius of one step")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _changes(axis: Axes, model: dict[str, Any]) -> None:
    for arm, colour in _COLOURS.items():
        for puzzle in model[arm]["puzzles"]:
            unsolved = arm == "trained" and not puzzle["solved"]
            label = f"{arm}, unsolved" if unsolved else arm
            shade = _UNSOLVED if unsolved else colour
            steps = range(1, len(puzzle["change"]) + 1)
            axis.semilogy(steps, puzzle["change"], color=shade, linewidth=1.0, alpha=0.7, label=label)
    axis.set_xlabel("supervision step")
    _legend(axis)


def _radii(axis: Axes, model: dict[str, Any]) -> None:
    axis.axhline(1.0, color="#8a9bb5", linewidth=0.8)
    totals = dict(model["nest"])
    for arm, colour in _COLOURS.items():
        for mark, loop in zip(_MARKS, model[arm]["loops"], strict=False):
            shares = [(step["step"] + 1) / totals[loop["loop"]] for step in loop["steps"]]
            radii = [radius(step) for step in loop["steps"]]
            axis.semilogy(shares, radii, marker=mark, color=colour, linewidth=1.0, label=f"{arm}, {loop['loop']}")
    axis.set_xlabel("share of the solve")
    low, high = axis.get_ylim()
    axis.set_yticks([tick for tick in _TICKS if low <= tick <= high], minor=False)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_ylim(low, high * (high / low) ** 0.5)  # room for the legend
    _legend(axis, ncols=2)


def _legend(axis: Axes, ncols: int = 1) -> None:
    known = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(
        known.values(),
        known.keys(),
        frameon=False,
        fontsize=8,
        ncols=ncols,
        loc="best" if ncols == 1 else "upper right",
    )
    axis.spines[["top", "right"]].set_visible(False)
