"""Numbers by step, drawn with one character for each stretch of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from laser_fx.reporting.series import Stretch, level, levels

__all__ = ["BARS", "bars", "fidelity_bars", "worst_of"]

BARS = "▁▂▃▄▅▆▇█"
_FIDELITY_BARS = "▁▃▅▆█"


def fidelity_bars(stretches: Sequence[Stretch], threshold: float) -> str:
    """Higher bars are closer to 1, see `levels`; ``x`` where X was used exactly.

    >>> from laser_fx.loops import Step
    >>> from laser_fx.reporting.series import shortened
    >>> fidelities = (0.5, 0.99, 0.995, 0.998, 0.99999)
    >>> fidelity_bars(shortened([Step(f, 4, False, False, f < 0.9) for f in fidelities], at_most=5), threshold=0.99)
    'x▃▅▆█'
    """
    bounds = levels(threshold)
    return "".join("x" if one.exact else _FIDELITY_BARS[level(one.fidelity, bounds)] for one in stretches)


def bars(values: Sequence[float], *, low: float = 0.0, high: float | None = None) -> str:
    """A bar for each value, the highest one for ``high``; ``?`` for NaN.

    Args:
        values: the numbers.
        low: what the lowest bar stands for.
        high: what the highest bar stands for; the largest value unless given.

    >>> bars([0, 1, 2, 7, math.nan]), bars([3, 3])
    ('▁▂▃█?', '██')
    """
    finite = [value for value in values if math.isfinite(value)]
    top = max(finite, default=0.0) if high is None else high
    return "".join(_bar(value, low, top) for value in values)


def _bar(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "?"
    if high <= low:
        return BARS[0]
    share = (min(max(value, low), high) - low) / (high - low)
    return BARS[min(len(BARS) - 1, int(share * len(BARS)))]


def worst_of(values: Sequence[float], at_most: int) -> list[float]:
    """At most that many values, each the largest of a stretch of equal length: a mean would hide what stands out.

    >>> worst_of([1, 5, 2, 3, 4], at_most=3)
    [5, 3, 4]
    """
    length = max(1, math.ceil(len(values) / at_most))
    stretches = (values[first : first + length] for first in range(0, len(values), length))
    return [max(stretch, key=lambda value: math.inf if math.isnan(value) else value) for stretch in stretches]
