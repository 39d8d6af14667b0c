"""Proposes periods: how far apart the recurrences of a token are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from laser_fx.passes.keys import Interner
from laser_fx.passes.normalise import Item

__all__ = ["periods"]

_RECURRENCES = 3
"""Periods are proposed by the next few occurrences of a token; longer ones appear once shorter loops are collapsed."""

Numbers = NDArray[np.int64]


def periods(items: Sequence[Item]) -> Iterator[tuple[int, list[int]]]:
    """Proposed periods, shortest first, each with the places where it may begin.

    >>> items = [Item(token, (), None, False) for token in (7, 8, 7, 8, 7)]
    >>> list(periods(items))
    [(2, [0, 1, 2])]
    """
    tokens = np.array([item.token for item in items], np.int64)
    pairs = [_recurrences(keys, ahead) for keys in (tokens, _roles(items)) for ahead in range(1, _RECURRENCES + 1)]
    starts, ends = (np.concatenate(places) for places in zip(*pairs, strict=True))
    # One number for each pair of a period and a start, so that sorting them groups the periods.
    proposed = np.unique((ends - starts) * len(items) + starts) if len(items) else starts
    spans, starts = np.divmod(proposed, max(len(items), 1))
    likely = _may_repeat(tokens, spans, starts)
    spans, starts = spans[likely], starts[likely]
    for group in np.split(np.arange(len(spans)), np.flatnonzero(np.diff(spans)) + 1):
        if len(group):
            yield int(spans[group[0]]), starts[group].tolist()


def _roles(items: Sequence[Item]) -> Numbers:
    """Numbers that tell apart items that have one token and another distance to what they read."""
    intern = Interner()
    keys = (
        (item.token, *((index - a if a >= 0 else -1, slot) for a, slot in item.args))
        for index, item in enumerate(items)
    )
    return np.fromiter((intern(key) for key in keys), np.int64, len(items))


def _recurrences(keys: Numbers, ahead: int) -> tuple[Numbers, Numbers]:
    """The places of each key, and those of its occurrences so many later."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[ahead:]] == keys[order[:-ahead]]
    return order[:-ahead][same], order[ahead:][same]


def _may_repeat(tokens: Numbers, spans: Numbers, starts: Numbers) -> NDArray[np.bool_]:
    """A whole period that recurs goes on for half of it before or behind the start: two probes tell most others."""

    def recurs(places: Numbers) -> NDArray[np.bool_]:
        inside = (places >= 0) & (places + spans < len(tokens))
        first, second = np.where(inside, places, 0), np.where(inside, places + spans, 0)
        equal: NDArray[np.bool_] = inside & (tokens[first] == tokens[second])
        return equal

    half, quarter = spans // 2, spans // 4
    behind = recurs(starts + half) & recurs(starts + quarter)
    return behind | (recurs(starts - half) & recurs(starts - quarter))
