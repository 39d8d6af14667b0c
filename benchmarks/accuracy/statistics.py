"""Intervals and tests. Shares are in [0, 1]; differences are arm minus eager, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

__all__ = ["MARGIN", "Discordance", "Paired", "discordance", "mean_interval", "paired", "pooled", "wilson"]

MARGIN = 0.02
LEVEL = 0.05

Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """What pairs say about the mean difference.

    Args:
        mean: of the differences.
        deviation: their standard deviation.
        interval_95: of the mean, by t.
        interval_90: of the mean, by t; two one-sided tests at 5 % pass where it lies within the margin.
        tost: p of "the mean difference is the margin or more, either way"; small where the two are equivalent.
        difference: p of "the mean difference is zero", by t.
    """

    mean: float
    deviation: float
    interval_95: Interval
    interval_90: Interval
    tost: float
    difference: float


@dataclass(frozen=True)
class Discordance:
    """Puzzles that one of two models solved alone, and the exact McNemar test of "both alike".

    Args:
        only_eager: solved by eager alone.
        only_arm: solved by the arm alone.
        p: two-sided.
    """

    only_eager: int
    only_arm: int
    p: float


def wilson(solved: int, count: int) -> Interval:
    """The 95 % score interval of a share.

    >>> [round(bound, 3) for bound in wilson(97, 100)]
    [0.915, 0.99]
    """
    low, high = proportion_confint(solved, count, alpha=LEVEL, method="wilson")
    return float(low), float(high)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The t interval of a mean: 95 % for the default ``level``. Equal values give a point; one value gives no bound."""
    if len(values) < 2:
        return -float("inf"), float("inf")
    if min(values) == max(values):
        return values[0], values[0]
    low, high = DescrStatsW(np.asarray(values)).tconfint_mean(alpha=level)
    return float(low), float(high)


def paired(arm: Sequence[float], eager: Sequence[float], margin: float = MARGIN) -> Paired:
    """Compare two arms seed by seed.

    Differences that are all equal have no spread to test by: the p values are then 0 or 1, by what the eye sees.

    Raises:
        ValueError: fewer than two pairs, or of different lengths.
    """
    if len(arm) != len(eager) or len(arm) < 2:
        raise ValueError(f"{len(arm)} and {len(eager)} values are no two pairs or more")
    differences = np.asarray(arm) - np.asarray(eager)
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
    if np.ptp(differences) == 0:
        tost, difference = float(abs(mean) >= margin), float(mean == 0)
    else:
        tost = float(ttost_paired(np.asarray(arm), np.asarray(eager), -margin, margin)[0])
        difference = float(DescrStatsW(differences).ttest_mean(0.0)[1])
    values = differences.tolist()
    return Paired(mean, deviation, mean_interval(values), mean_interval(values, 2 * LEVEL), tost, difference)


def discordance(arm: Sequence[bool], eager: Sequence[bool]) -> Discordance:
    """McNemar's test on the same puzzles, answered by two models."""
    mine, its = np.asarray(arm, dtype=bool), np.asarray(eager, dtype=bool)
    if mine.shape != its.shape:
        raise ValueError(f"answers to {mine.size} and {its.size} puzzles cannot be paired")
    only_eager, only_arm = int((its & ~mine).sum()), int((mine & ~its).sum())
    return Discordance(only_eager, only_arm, _mcnemar(only_eager, only_arm))


def pooled(parts: Sequence[Discordance]) -> Discordance:
    """One test over all seeds. Seeds answer the same puzzles, so its p is smaller than it should be."""
    only_eager, only_arm = sum(part.only_eager for part in parts), sum(part.only_arm for part in parts)
    return Discordance(only_eager, only_arm, _mcnemar(only_eager, only_arm))


def _mcnemar(only_eager: int, only_arm: int) -> float:
    return float(mcnemar([[0, only_eager], [only_arm, 0]], exact=True).pvalue)
