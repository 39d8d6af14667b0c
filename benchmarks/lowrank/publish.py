"""Writes what the records say: the figures as JSON, the page and the picture."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.records import load
from benchmarks.lowrank.figure import draw
from benchmarks.lowrank.measure import HELD_OUT, HOPELESS, LOOK, SEARCHED
from benchmarks.lowrank.page import page
from benchmarks.lowrank.points import CHOICES, GOAL, MODELS, STEPS
from benchmarks.lowrank.statistics import LEVEL, MARGIN, compared
from laser_fx.files import write_text

__all__ = ["FIGURES", "PAGE", "PICTURE", "aggregate", "publish"]

_ROOT = Path(__file__).parents[2]
FIGURES = _ROOT / "benchmarks" / "results" / "lowrank.json"
PAGE = _ROOT / "docs" / "lowrank.md"
PICTURE = _ROOT / "docs" / "lowrank.png"


def aggregate(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all records: by model, the points of every choice, by steps and by operations."""
    found = list(records)
    order = {choice: at for at, choice in enumerate(CHOICES)}
    models = {}
    for model in MODELS:
        own = [r for r in found if r["model"] == model]
        own.sort(key=lambda r: (r["steps"] != STEPS, order[r["choice"]], -r["flops_share"]))
        models[model] = [_point(record) for record in own]
    return {
        "command": "python -m benchmarks.lowrank",
        "goal": GOAL,
        "margin": MARGIN,
        "level": LEVEL,
        "held_out": HELD_OUT,
        "searched": SEARCHED,
        "look": LOOK,
        "hopeless": HOPELESS,
        "calibrated_at": STEPS,
        "threads": 1,
        "models": models,
        "environment": found[-1]["environment"] if found else {},
    }


def _point(record: dict[str, Any]) -> dict[str, Any]:
    left_out = ("model", "environment", "calibrated_at")
    return {**{key: value for key, value in record.items() if key not in left_out}, **compared(record)}


def publish(records: Path) -> None:
    """Aggregate the records, and write JSON, page and picture."""
    text = json.dumps(aggregate(load(records)), indent=1, ensure_ascii=False) + "\n"
    write_text(FIGURES, text, overwrite=True)
    figures = json.loads(text)
    write_text(PAGE, page(figures), overwrite=True)
    draw(figures, PICTURE)
