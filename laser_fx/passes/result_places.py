"""Where the results of a loop stand before and after its sites were rewritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from laser_fx.rolled import RolledLoop

__all__ = ["ResultPlaces"]


@dataclass(frozen=True)
class ResultPlaces:
    """Where a rewritten loop has its results: carry, bases, lists over steps, records, then stacked outputs.

    Args:
        old_carry: how many results come before the bases.
        old_lists: how many results came before the stacked outputs.
        bases: how many bases it carries.
        records: how many records it returns.
    """

    old_carry: int
    old_lists: int
    bases: int
    records: int

    @classmethod
    def of(cls, loop: RolledLoop, results: int, bases: int, records: int) -> ResultPlaces:
        """Places of a loop that had ``results`` results."""
        return cls(loop.carry_count, results - loop.stacked_outputs, bases, records)

    def moved(self, index: Any) -> int:
        """The place of what was result ``index``."""
        if index < self.old_carry:
            return int(index)
        return int(index + self.bases + (self.records if index >= self.old_lists else 0))

    def merged(self, results: Sequence[Any], bases: Sequence[Any], records: Sequence[Any]) -> list[Any]:
        """Something of every result, in the new order."""
        lists, stacked = results[self.old_carry : self.old_lists], results[self.old_lists :]
        return [*results[: self.old_carry], *bases, *lists, *records, *stacked]
