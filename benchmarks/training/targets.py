"""What laser-fx set out to reach, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["TARGETS", "Target", "verdict"]

RowLike = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One line of the table of aims.

    Args:
        plan: its name there.
        arms: arms that try to reach it.
        held: bytes held for backward, of eager's.
        time_last: time, of eager's, for the gradient of the last cycle.
        time_all: the same for full backpropagation.
        error: the worst parameter's gradient error, None where the cosine counts.
        cosine: the worst parameter's cosine, None where the error counts.
        below: an arm whose time it has to beat as well.
    """

    plan: str
    arms: tuple[str, ...]
    held: float
    time_last: float
    time_all: float
    error: float | None = 1e-6
    cosine: float | None = None
    below: str | None = None


TARGETS = (
    Target("lean (exact)", ("laser-fx lean", "laser-fx lean, torch's kernels"), 0.45, 1.03, 1.03),
    Target("0.30 (exact)", ("laser-fx 0.30", "laser-fx 0.30, torch's kernels"), 0.30, 1.08, 1.08),
    Target(
        "LASER + lean",
        ("laser-fx LASER + lean", "laser-fx LASER + lean, torch's kernels"),
        0.30,
        1.05,
        1.05,
        error=None,
        cosine=0.999,
    ),
    Target("0.05", ("laser-fx 0.05", "laser-fx 0.05, torch's kernels"), 0.05, 1.20, 1.30, below="checkpoint per block"),
    Target("min, approximate", ("laser-fx min, approximate 0.1",), 0.015, 1.25, 1.25, error=None, cosine=0.99),
)


def verdict(target: Target, row: RowLike, rows: Mapping[str, RowLike], all_cycles: bool) -> str:
    """``met``, or ``missed:`` and by how much.

    >>> row = {"held_of_eager": 0.56, "time_of_eager": 1.02, "worst_gradient_error": 0.0, "worst_cosine": 1.0}
    >>> verdict(TARGETS[0], row, {}, False)
    'missed: 11.0 points of bytes'
    """
    most = target.time_all if all_cycles else target.time_last
    misses = []
    if row["held_of_eager"] > target.held:
        misses.append(f"{100 * (row['held_of_eager'] - target.held):.1f} points of bytes")
    if row["time_of_eager"] > most:
        misses.append(f"{row['time_of_eager'] - most:.3f} × of time")
    if target.error is not None and row["worst_gradient_error"] > target.error:
        misses.append(f"gradient error {row['worst_gradient_error']:.1e}")
    if target.cosine is not None and row["worst_cosine"] < target.cosine:
        misses.append(f"cosine {row['worst_cosine']:.4f}")
    other = rows.get(target.below or "")
    if other is not None and row["time_of_eager"] >= other["time_of_eager"]:
        misses.append(f"not below {target.below}'s {other['time_of_eager']:.3f} ×")
    return "missed: " + ", ".join(misses) if misses else "met"
