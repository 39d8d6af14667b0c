"""What pairs of answers to the same puzzles say about the difference of two shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from statsmodels.stats.weightstats import DescrStatsW

from laser_fx.intervals import wilson

__all__ = ["LEVEL", "MARGIN", "compared"]

MARGIN, LEVEL = 0.01, 0.05


def compared(record: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy of a setting, and its paired difference to the exact model, with a test of equivalence.

    Args:
        record: ``puzzles``, ``solved``, ``exact``, and of these ``lost`` and ``gained`` by the setting.

    Returns:
        Shares with 95 % intervals, the mean difference with its 90 % interval, p of "the difference is the margin or
        more, either way" (TOST), and whether that is below the level.

    >>> found = compared({"puzzles": 4000, "solved": 3950, "exact": 3955, "lost": 10, "gained": 5})
    >>> found["equivalent"], round(found["difference"], 5)
    (True, -0.00125)
    """
    count, lost, gained = record["puzzles"], record["lost"], record["gained"]
    values = np.array([-1.0, 0.0, 1.0])
    statistics = DescrStatsW(values, weights=np.array([lost, count - lost - gained, gained]))
    low, high = statistics.tconfint_mean(alpha=2 * LEVEL)
    tost = float(statistics.ttost_mean(-MARGIN, MARGIN)[0]) if lost + gained else 0.0
    return {
        "accuracy": record["solved"] / count,
        "interval_95": list(wilson(record["solved"] / count, count)),
        "exact_accuracy": record["exact"] / count,
        "difference": (gained - lost) / count,
        "difference_interval_90": [float(low), float(high)] if lost + gained else [0.0, 0.0],
        "tost": tost,
        "equivalent": tost < LEVEL,
    }
