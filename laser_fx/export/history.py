"""What the finish reads of single steps: as many values as it can still need, and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from laser_fx.export.rows import stacked
from laser_fx.export.step_plan import Kept

__all__ = ["History"]


class History:
    """Values of past steps.

    Args:
        wanted: which.

    >>> last, second = Kept("last", "y", -1), Kept("second", "y", 1)
    >>> history = History((last, second))
    >>> for step in range(3):
    ...     history.add({"y": step * 10}, step)
    >>> history.values()
    {'last': 20, 'second': 10}
    """

    def __init__(self, wanted: tuple[Kept, ...]) -> None:
        self._wanted = wanted
        self._values: dict[str, deque[Any]] = {kept.name: deque(maxlen=_most(kept)) for kept in wanted}

    def add(self, made: Mapping[str, Any], step: int) -> None:
        """Keep what a step made.

        Args:
            made: its outputs by name.
            step: its number, from 0.
        """
        for kept in self._wanted:
            if kept.index is None or kept.index < 0 or kept.index == step:
                self._values[kept.name].append(made[kept.output])

    def values(self) -> dict[str, Any]:
        """What the finish takes, by name; a value of a step that was not taken is left out."""
        found: dict[str, Any] = {}
        for kept in self._wanted:
            values = self._values[kept.name]
            if kept.index is None and values:
                found[kept.name] = stacked(values)
            elif len(values) == _most(kept):
                found[kept.name] = values[0]
        return found

    def following(self) -> dict[str, Any]:
        """Of these, the values that the next step will replace."""
        values = self.values()
        return {kept.name: values[kept.name] for kept in self._wanted if kept.name in values and _follows(kept)}

    def change(self, change: Callable[[str, Any], Any]) -> None:
        """Replace those values, and those that are on their way to become such, by the name of the step's output."""
        for kept in self._wanted:
            if _follows(kept):
                values = (change(kept.output, value) for value in self._values[kept.name])
                self._values[kept.name] = deque(values, maxlen=_most(kept))


def _follows(kept: Kept) -> bool:
    return kept.index is not None and kept.index < 0


def _most(kept: Kept) -> int | None:
    return None if kept.index is None else max(1, -kept.index)
