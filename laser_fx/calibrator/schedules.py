"""The search for a rank schedule: how many of the last steps need more than the steps before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from laser_fx.calibration import RankShare
from laser_fx.calibrator.search import Setting
from laser_fx.passes.rank_schedule import Schedule

__all__ = ["RankSchedules", "walk"]

RankSchedules = Sequence[Schedule] | Literal["search"]
"""Schedules to try, or ``"search"`` for those of `walk`."""

_ENDS: tuple[tuple[RankShare, RankShare], ...] = ((1.0, "exact"), (0.75, 1.0), (0.5, 1.0))
"""Share of the rank at early steps, and at the last ones."""


def walk(cheapest: Callable[[Schedule], Setting | None], trips: int) -> Iterator[Setting]:
    """The best schedule of each kind: its end is lengthened step by step, as long as that takes fewer operations.

    Args:
        cheapest: the cheapest setting of a schedule that keeps the answers; None where none does.
        trips: of the outermost loop.
    """
    for early, late in _ENDS:
        best: Setting | None = None
        for length in range(1, trips):
            setting = cheapest((early, *(late,) * length))
            if setting is None or (best is not None and setting.flops_share >= best.flops_share):
                break
            best = setting
        if best is not None:
            yield best
