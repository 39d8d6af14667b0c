"""The picture: latency of every arm beside torch eager, and time against the steps that were taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

__all__ = ["draw"]

Figures = Mapping[str, Any]
_COLOURS = {
    "rolled": "#1f5fa8",
    "rolled, OnnxModel": "#6f9fd8",
    "functions": "#3f8f5f",
    "unrolled": "#8a8a8a",
    "step, OnnxModel": "#7a4fa8",
    "torch eager": "#202020",
    "torch.compile, a step": "#c2571a",
    "torch.compile, a net call": "#e0a080",
    "low rank 0.45 ×": "#b03060",
    "low rank 0.45 ×, measured": "#e08aa8",
}


def draw(figures: Figures, path: Path) -> None:
    """Latencies on the left, early exit on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 7.5), width_ratios=(2, 1))
    _latencies(left, [cell for cell in figures["parts"]["latency"].values() if cell.get("rows")])
    _exits(right, [row for row in figures["parts"]["early_exit"].values() if "seconds" in row])
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _latencies(panel: Axes, cells: list[Figures]) -> None:
    for name, colour in _COLOURS.items():
        points = [(at, row["of_eager"]) for at, cell in enumerate(cells) for row in cell["rows"] if row["arm"] == name]
        if points:
            x, y = zip(*points, strict=True)
            size = 8 if name == "rolled" else 5.5
            panel.plot(x, y, "o", color=colour, label=name, markersize=size, alpha=0.85)
    names = [f"{cell['size']} b{cell['batch']} · {cell['steps']}" for cell in cells]
    panel.set_xticks(range(len(cells)), names, rotation=60, ha="right", fontsize=8.5)
    panel.axhline(0.8, color="#b0b0b0", linestyle="--", linewidth=1)
    panel.set_ylim(0, 1.35)
    panel.set_ylabel("CPU time of a call, of torch eager's")
    panel.set_title("Latency: width x tokens, batch · supervision steps", loc="left")
    panel.grid(True, axis="y", color="#e6e6e6")
    panel.legend(fontsize=8.5, ncols=3, loc="upper center")


def _exits(panel: Axes, rows: list[Figures]) -> None:
    for row in rows:
        steps = [int(name) for name in row["deviations"]]
        share = [row["seconds"][str(n)] / row["seconds"][str(max(steps))] for n in steps]
        panel.plot(steps, share, "o-", linewidth=1, label=f"{row['title']}, batch {row['batch']}, per {row['per']}")
    if rows:
        panel.plot([0, max(steps)], [0, 1], color="#b0b0b0", linestyle="--", linewidth=1, label="in proportion")
        panel.legend(fontsize=8.5)
    panel.set_xlabel("supervision steps taken")
    panel.set_ylabel("time, of all steps'")
    panel.set_title("Early exit", loc="left")
    panel.grid(True, color="#e6e6e6")
