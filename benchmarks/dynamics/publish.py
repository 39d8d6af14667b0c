"""Writes the page and the picture from the figures."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.dynamics.figure import draw
from benchmarks.dynamics.page import page
from laser_fx.files import write_text

__all__ = ["FIGURES", "PAGE", "PICTURE", "publish"]

_ROOT = Path(__file__).parents[2]
FIGURES = _ROOT / "benchmarks" / "results" / "dynamics.json"
PAGE = _ROOT / "docs" / "dynamics.md"
PICTURE = _ROOT / "docs" / "dynamics.png"


def publish() -> None:
    """Page and picture anew."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    write_text(PAGE, page(figures), overwrite=True)
    draw(figures, PICTURE)


if __name__ == "__main__":
    publish()
