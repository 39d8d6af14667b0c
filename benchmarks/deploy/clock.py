"""CPU seconds, and arms run in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["Call", "cpu_seconds", "interleaved", "ratio"]

Call = Callable[[], object]


def cpu_seconds(call: Call) -> float:
    """CPU seconds of this process, all its threads, that one call takes.

    >>> cpu_seconds(lambda: None) < 1.0
    True
    """
    began = time.process_time()
    call()
    return time.process_time() - began


def interleaved(
    arms: Mapping[str, Call], *, rounds: int, seconds: float = float("inf"), least: int = 3, warm: bool = True
) -> dict[str, list[float]]:
    """CPU seconds of every arm in every round; every other round runs backwards.

    Args:
        arms: what to run, by name.
        rounds: the most rounds.
        warm: whether each is called once before the clock starts.
        seconds: start no round after so many CPU seconds, but make `least`.
    """
    for call in arms.values() if warm else ():
        call()
    spent: dict[str, list[float]] = {name: [] for name in arms}
    gc.collect()
    stop = time.process_time() + seconds
    for turn in range(rounds):
        if turn >= least and time.process_time() > stop:
            break
        for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
            spent[name].append(cpu_seconds(arms[name]))
    return spent


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of the rounds.

    >>> ratio([1.0, 2.0, 9.0], [1.0, 1.0, 3.0])
    2.0
    """
    return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
