"""The steps of a site, shortened to what fits on a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from laser_fx.loops import LoopNest, Step

__all__ = ["Stretch", "level", "levels", "shortened", "trips_around"]

GAPS = (1.0, 0.5, 0.2, 0.05)


@dataclass(frozen=True)
class Stretch:
    """Steps ``first`` to ``last``: the lowest fidelity among them, and whether any did a thing."""

    first: int
    last: int
    fidelity: float
    rank: int
    tracked: bool
    reset: bool
    exact: bool


def shortened(steps: Sequence[Step], at_most: int) -> list[Stretch]:
    """At most that many stretches of equal length. The worst is shown: a mean would hide the step that broke.

    >>> steps = [Step(0.9 + i / 100, 4, i == 3, False, False) for i in range(6)]
    >>> [(s.first, s.last, round(s.fidelity, 2), s.tracked) for s in shortened(steps, at_most=3)]
    [(0, 1, 0.9, False), (2, 3, 0.92, True), (4, 5, 0.94, False)]
    """
    length = max(1, math.ceil(len(steps) / at_most))
    return [_stretch(first, steps[first : first + length]) for first in range(0, len(steps), length)]


def _stretch(first: int, steps: Sequence[Step]) -> Stretch:
    return Stretch(
        first,
        first + len(steps) - 1,
        fidelity=min((step.fidelity for step in steps), key=_nan_first),
        rank=max(step.rank for step in steps),
        tracked=any(step.tracked for step in steps),
        reset=any(step.reset for step in steps),
        exact=any(step.exact for step in steps),
    )


def _nan_first(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def levels(threshold: float) -> tuple[float, ...]:
    """Fidelities at which the colour changes: the threshold, and what closes half of its gap to 1 and more.

    >>> [round(bound, 6) for bound in levels(0.999)]
    [0.999, 0.9995, 0.9998, 0.99995]
    """
    return tuple(1.0 - (1.0 - threshold) * gap for gap in GAPS)


def level(fidelity: float, bounds: Sequence[float]) -> int:
    """How many of the bounds a fidelity reaches; 0 for NaN.

    >>> level(0.9, levels(0.99)), level(0.9997, levels(0.99))
    (0, 4)
    """
    return sum(fidelity >= bound for bound in bounds)


def trips_around(nest: LoopNest, name: str) -> tuple[int, ...]:
    """Trip counts of the loops around a body, outermost first, that of ``name`` itself last; empty where there is none.

    >>> from laser_fx.loops import Loop
    >>> trips_around(LoopNest((Loop("loop_0", 3, children=(Loop("loop_0_0", 6),)),)), "loop_0_0")
    (3, 6)
    """
    around: list[int] = []
    for (depth, trips), loop in zip(nest.trips(), nest.walk(), strict=True):
        around = [*around[:depth], trips]
        if loop.name == name:
            return tuple(around)
    return ()
