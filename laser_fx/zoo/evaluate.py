"""How often a model solves a whole puzzle, with an interval that says how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from laser_fx.intervals import wilson
from laser_fx.zoo.tasks import Batch
from laser_fx.zoo.trm import TRM, Solve

__all__ = ["Score", "evaluate"]


@dataclass(frozen=True)
class Score:
    """Puzzles solved without a single wrong cell, out of ``count``.

    >>> score = Score(solved=97, count=100)
    >>> score.exact, tuple(round(bound, 3) for bound in score.interval())
    (0.97, (0.915, 0.99))
    """

    solved: int
    count: int

    @property
    def exact(self) -> float:
        """Share of puzzles solved."""
        return self.solved / self.count

    def interval(self, z: float = 1.959964) -> tuple[float, float]:
        """Wilson's score interval of `exact`; 95 % for the default ``z``."""
        return wilson(self.exact, self.count, z)


@torch.no_grad()
def evaluate(model: TRM, batch: Batch, steps: int, rows: int = 250) -> Score:
    """Solve a batch with ``steps`` supervision steps, ``rows`` puzzles at a time.

    Returns:
        how many rows of ``labels`` (count, seq_len) are met in every cell.
    """
    solve = Solve(model, steps)
    solved = 0
    for inputs, labels in zip(batch["inputs"].split(rows), batch["labels"].split(rows), strict=True):
        solved += int((solve(inputs).argmax(dim=-1) == labels).all(dim=-1).sum())
    return Score(solved, len(batch["inputs"]))
