"""One way of running a model on the held-out puzzles, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from laser_fx.zoo.evaluate import Score

__all__ = ["Arm", "Check", "measure_arm"]

_ROWS = 125
"""Puzzles in a batch: a basis is shared by the batch, so all arms see the same ones."""

Answer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """Something that must hold.

    Args:
        name: what was compared.
        holds: whether it does.
        detail: the figure.
    """

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Arm:
    """How one way of running a model did.

    Args:
        name: ``eager``, ``rolled ONNX``, ….
        score: puzzles solved.
        agreement: share of puzzles whose whole answer is eager's.
        seconds: of all puzzles.
        site_flops: FLOPs at the sites, of those that the exact linears need; None where exact.
        lowest_fidelity: the least fidelity at which a step used its basis.
        exact_share: share of the steps that used the exact activation.
        logits: (count, cells, tokens).
    """

    name: str
    score: Score
    agreement: float
    seconds: float
    logits: Tensor
    site_flops: float | None = None
    lowest_fidelity: float | None = None
    exact_share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the logits."""
        low, high = self.score.interval()
        plain = {key: value for key, value in asdict(self).items() if key not in ("logits", "score")}
        return {**plain, "solved": self.score.solved, "puzzles": self.score.count, "interval_95": [low, high]}


def measure_arm(
    name: str, answer: Answer, inputs: Tensor, labels: Tensor, reference: Arm | None, **figures: float | None
) -> Arm:
    """Run ``answer`` on all puzzles.

    Args:
        name: of the arm.
        answer: (rows, cells) tokens to logits.
        inputs: (count, cells).
        labels: (count, cells).
        reference: eager's arm; None for eager itself.
        figures: `Arm`'s other figures.
    """
    began = time.perf_counter()
    with torch.no_grad():
        logits = torch.cat([answer(rows) for rows in inputs.split(_ROWS)])
    seconds = time.perf_counter() - began
    given = logits.argmax(-1)
    solved = int((given == labels).all(-1).sum())
    same = 1.0 if reference is None else float((given == reference.logits.argmax(-1)).all(-1).float().mean())
    return Arm(name, Score(solved, len(labels)), same, seconds, logits, **figures)
