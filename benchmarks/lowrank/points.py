"""The points of the curves: which settings are measured, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from laser_fx.calibrator.search import Family

__all__ = ["CHOICES", "GOAL", "MODELS", "STEPS", "Point", "points"]

MODELS = ("attention", "sudoku")
STEPS = 4
"""Supervision steps that bases are calibrated at, and measured at."""
GOAL = 0.45
"""The share of the linear FLOPs that every choice is asked for, whatever came out before."""

CHOICES = {
    "answer": Family(("answer",)),
    "answer, per step": Family(("answer",), "per_step"),
    "output": Family(("output",)),
    "activation": Family(("activation",)),
    "answer, last step exact": Family(("answer",), schedule=(1.0, "exact")),
    "activation or output, by site": Family(("activation", "output")),
    "output, per step": Family(("output",), "per_step"),
    "activation, per step": Family(("activation",), "per_step"),
}
"""Name on the page → family."""

_FURTHER = (
    ("answer", 0.36, STEPS),
    ("output", 0.6, STEPS),
    ("activation", 0.8, STEPS),
    ("answer, per step", 0.3, STEPS),
    ("answer", GOAL, None),
    ("answer", 0.3, STEPS),
    ("activation or output, by site", 0.6, STEPS),
    ("activation", 0.6, STEPS),
    ("output, per step", 0.6, STEPS),
    ("answer, per step", 0.36, None),
)
"""The rest of the curves, by what is learnt from them; None: at the steps that the model is stored with."""


@dataclass(frozen=True)
class Point:
    """One measurement.

    Args:
        model: of the zoo.
        choice: one of `CHOICES`.
        share: of the linear FLOPs that is asked for.
        steps: supervision steps; None for those that the model is stored with.
    """

    model: str
    choice: str
    share: float
    steps: int | None = STEPS


def points() -> Iterator[Point]:
    """All points: first every choice at the goal, then the rest of the curves."""
    wanted = [*((choice, GOAL, STEPS) for choice in CHOICES), *_FURTHER]
    for choice, share, steps in wanted:
        for model in MODELS:
            yield Point(model, choice, share, steps)
