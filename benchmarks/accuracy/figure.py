"""The picture: exact match by arm, a dot a seed, the mean with its interval, and the margin around eager's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]

_FEWEST = 3
"""Seeds of which an interval is drawn: that of two is wider than the picture."""

_DOT, _MEAN, _BAND = "#8a9bb5", "#12355b", "#e8edf4"


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write the picture of a study, PNG."""
    models = figures["models"]
    figure, axes = plt.subplots(1, len(models), figsize=(5.6 * len(models), 4.2), squeeze=False, layout="constrained")
    for axis, (name, model) in zip(axes[0], models.items(), strict=True):
        _panel(axis, name, model, 100 * figures["margin"])
    axes[0][0].set_ylabel(f"exact match on {figures['held_out']:,} held-out puzzles, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _panel(axis: Axes, name: str, model: dict[str, Any], margin: float) -> None:
    arms = model["arms"]
    eager = 100 * arms["eager"]["mean"]
    axis.axhspan(eager - margin, eager + margin, color=_BAND, zorder=0, label=f"eager's mean ± {margin:g} points")
    axis.axhline(eager, color=_DOT, linewidth=0.8, zorder=1)
    for place, arm in enumerate(arms.values()):
        runs = [100 * run["exact"] for run in arm["runs"]]
        # Spread sideways in the order of the seeds, so that a seed stands at the same place in every arm.
        sideways = [place + 0.3 * (at / max(1, len(runs) - 1) - 0.5) for at in range(len(runs))]
        axis.scatter(sideways, runs, s=16, color=_DOT, zorder=2, label="a seed" if place == 0 else None)
        if len(runs) >= _FEWEST:
            mean, (low, high) = 100 * arm["mean"], (100 * bound for bound in arm["interval_95"])
            spread = [[mean - low], [high - mean]]
            label = "mean, 95 % (t)" if place == 0 else None
            axis.errorbar(place, mean, spread, fmt="o", color=_MEAN, capsize=4, markersize=5, zorder=3, label=label)
    axis.set_xticks(range(len(arms)), [name.replace(" ", "\n", 1) for name in arms], fontsize=9)
    axis.set_title(name)
    axis.spines[["top", "right"]].set_visible(False)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, 0), min(high, 100))  # a t interval does not know where shares end
