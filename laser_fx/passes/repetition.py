"""Stretches of a graph that nearly repeat: mostly the same operators again and again, whatever they read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Stretch", "repetitions"]

_CONTEXTS = (1, 4, 16)
"""Lengths of words of operators whose recurrence proposes a period: long ones are rare, short ones survive a gap."""
_RECURRENCES = 2
_PERIODS = 16
"""How many of the proposed periods are looked at."""
_SAME, _ALIKE, _OTHER = 2, 1, -2


@dataclass(frozen=True)
class Stretch:
    """Operators ``start`` to ``stop`` of a sequence, most of which recur ``period`` places later.

    Args:
        score: twice the operators that recur as they are, plus those that recur as another use of the same operator,
            less twice the others.
    """

    start: int
    stop: int
    period: int
    score: int


def repetitions(exact: Sequence[int], alike: Sequence[int]) -> list[Stretch]:
    """Stretches of at least two periods, best first.

    Args:
        exact: one number for each operator, equal where all but the values read is equal.
        alike: another, equal where the operator is the same.

    >>> repetitions([1, 2, 3, 1, 2, 4, 1, 2, 3], [1, 2, 3, 1, 2, 3, 1, 2, 3])[0]
    Stretch(start=0, stop=9, period=3, score=10)
    """
    found = [stretch for period in _periods(alike) for stretch in _stretches(exact, alike, period)]
    return sorted(found, key=lambda s: (-s.score, s.period, s.start))


def _periods(alike: Sequence[int]) -> list[int]:
    votes: Counter[int] = Counter()
    for length in _CONTEXTS:
        votes.update(_recurrences(alike, length))
    return [period for period, _ in votes.most_common(_PERIODS)]


def _recurrences(alike: Sequence[int], length: int) -> Iterator[int]:
    """The distances from each word of ``length`` operators to its next few occurrences."""
    latest: dict[tuple[int, ...], list[int]] = {}
    for index in range(len(alike) - length + 1):
        before = latest.setdefault(tuple(alike[index : index + length]), [])
        for place in before:
            yield index - place
        before.append(index)
        del before[:-_RECURRENCES]


def _stretches(exact: Sequence[int], alike: Sequence[int], period: int) -> Iterator[Stretch]:
    """Runs whose score stays within one period's half of the best that it had."""
    start = stop = score = best = index = 0
    limit = len(alike) - period
    while index <= limit:
        if index < limit:
            same, other = exact[index] == exact[index + period], alike[index] != alike[index + period]
            score += _SAME if same else _OTHER if other else _ALIKE
            index += 1
            if score > best:
                stop, best = index, score
            if score > 0 and score >= best - max(period, 2):
                continue
        long = best > 0 and stop - start >= period
        if long:
            yield Stretch(start, stop + period, period, best)
        start = index = stop if long and index < limit else max(index, start + 1)
        score = best = 0
