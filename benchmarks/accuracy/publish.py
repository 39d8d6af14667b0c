"""Writes what the records say: the figures as JSON, the page and the picture."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.accuracy.aggregate import aggregate
from benchmarks.accuracy.figure import draw
from benchmarks.accuracy.page import page
from benchmarks.accuracy.records import current, load
from laser_fx.files import write_text

__all__ = ["FIGURES", "PAGE", "PICTURE", "publish"]

_ROOT = Path(__file__).parents[2]
FIGURES = _ROOT / "benchmarks" / "results" / "accuracy.json"
PAGE = _ROOT / "docs" / "accuracy.md"
PICTURE = _ROOT / "docs" / "accuracy.png"


def publish(records: Path) -> None:
    """Aggregate the records, and write JSON, page and picture."""
    text = json.dumps(aggregate(current(load(records))), indent=1) + "\n"
    write_text(FIGURES, text, overwrite=True)
    figures = json.loads(text)
    write_text(PAGE, page(figures), overwrite=True)
    draw(figures, PICTURE)
