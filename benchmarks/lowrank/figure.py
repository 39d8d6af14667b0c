"""The picture: linear FLOPs against puzzles solved, a curve a choice, and the margin around the exact model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]

_BAND, _LINE = "#e8edf4", "#8a9bb5"
_COLOURS = {
    "answer": "#12355b",
    "answer, per step": "#2f7fc1",
    "answer, last step exact": "#6a9f58",
    "output": "#b3541e",
    "output, per step": "#e08e45",
    "activation": "#7d3c98",
    "activation, per step": "#b48ac7",
    "activation or output, by site": "#777777",
}
_LEAST = 0.85
"""What answers fewer puzzles lies below the picture; its place is marked at the edge."""


def draw(figures: dict[str, Any], path: Path) -> None:
    """Write the picture, PNG."""
    models = figures["models"]
    figure, axes = plt.subplots(1, len(models), figsize=(5.6 * len(models), 4.6), squeeze=False, layout="constrained")
    for axis, (name, points) in zip(axes[0], models.items(), strict=True):
        at_steps = [point for point in points if point["steps"] == figures["calibrated_at"]]
        _panel(axis, name, at_steps, figures)
    axes[0][0].set_ylabel("puzzles solved, %")
    known = {label: handle for axis in axes[0] for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _panel(axis: Axes, name: str, points: list[dict[str, Any]], figures: dict[str, Any]) -> None:
    margin = 100 * figures["margin"]
    if points:
        whole = max(points, key=lambda point: int(point["puzzles"]))
        exact = 100 * whole["exact_accuracy"]
        axis.axhspan(exact - margin, exact + margin, color=_BAND, zorder=0, label=f"exact ± {margin:g} point")
        axis.axhline(exact, color=_LINE, linewidth=0.8, zorder=1)
    axis.axvline(figures["goal"], color=_LINE, linewidth=0.8, linestyle=":", zorder=1)
    for choice, colour in _COLOURS.items():
        own = sorted((p for p in points if p["choice"] == choice), key=lambda p: float(p["flops_share"]))
        if own:
            _curve(axis, choice, own, colour)
    axis.set_ylim(100 * _LEAST - 1, 100)
    axis.set_xlim(0.25, 1.0)
    axis.set_title(name)
    axis.set_xlabel("FLOPs of the linears at sites, of the exact ones")
    axis.spines[["top", "right"]].set_visible(False)


def _curve(axis: Axes, choice: str, points: list[dict[str, Any]], colour: str) -> None:
    inside = [point for point in points if point["accuracy"] >= _LEAST]
    shares, solved = [p["flops_share"] for p in inside], [100 * p["accuracy"] for p in inside]
    below = [100 * (p["accuracy"] - p["interval_95"][0]) for p in inside]
    above = [100 * (p["interval_95"][1] - p["accuracy"]) for p in inside]
    style = {"color": colour, "markersize": 4, "linewidth": 1.2, "capsize": 2, "label": choice}
    axis.errorbar(shares, solved, [below, above], fmt="o-", **style)
    lost = [point["flops_share"] for point in points if point not in inside]
    axis.scatter(lost, [100 * _LEAST - 0.5] * len(lost), marker="v", color=colour, s=28)
