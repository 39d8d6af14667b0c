"""Runs of a block that repeat: proposed by recurring tokens, verified argument by argument."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from itertools import islice

from torch import fx

from laser_fx.passes.collapse import Run
from laser_fx.passes.keys import describe
from laser_fx.passes.normalise import Block, Ref
from laser_fx.passes.periods import periods
from laser_fx.passes.rotate import rotations

__all__ = ["Search"]

_EFFORT = 8
"""How often on average an item of a stretch is looked at until the search gives the stretch up."""

_SHIFTS = 8
"""How many of the best places for a step to begin are tried."""

_LEAST_SAVED = 2
"""A loop costs a call: one operation done twice stays as it is."""


class Search:
    """The runs of one block that are loops."""

    def __init__(self, block: Block, weights: frozenset[fx.Node]) -> None:
        self.items = block.items
        self.weights = {ref for ref, node in block.origin.items() if node in weights}
        self.tokens = [item.token for item in block.items]
        self.args = [item.args for item in block.items]
        self.origin = block.origin
        self.kinds: dict[Ref, Hashable] = {}

    def runs(self, min_trip: int) -> list[Run]:
        """The best runs that do not overlap: most items first, then the shortest period, then the earliest."""
        found = [run for period, starts in periods(self.items) for run in self._runs_of(period, starts, min_trip)]
        found.sort(key=lambda pair: (-pair[0].period * pair[0].trips, pair[0].period, pair[0].start))
        taken = bytearray(len(self.items))
        chosen = []
        for run, slack in found:
            if taken.find(1, run.start, run.stop) < 0:
                run = self._rotated(run, slack, taken)
                taken[run.start : run.stop] = b"\1" * (run.stop - run.start)
                chosen.append(run)
        return sorted(chosen, key=lambda run: run.start)

    def _rotated(self, run: Run, slack: int, taken: bytearray) -> Run:
        """The best of the shifts that the slack allows and that is a loop as well."""
        for moved in islice(rotations(self.items, run, slack), _SHIFTS):
            if moved == run:
                break
            free = taken.find(1, moved.start, moved.stop) < 0
            if free and self._holds(moved) and self._is_loop(moved):
                return moved
        return run

    def _runs_of(self, period: int, starts: list[int], min_trip: int) -> Iterator[tuple[Run, int]]:
        done = 0
        for start in starts:
            if start < done:
                continue
            first, last = self._matching(period, start, done)
            done = max(last, start + 1)
            if last - first < period:
                continue
            yield from self._verified(period, first, last, min_trip)
            turns = self._turns(period, first, last)
            if turns > 1:
                yield from self._verified(period * turns, first, last - period * (turns - 1), min_trip)

    def _matching(self, period: int, start: int, floor: int) -> tuple[int, int]:
        """The widest [first, last) around ``start`` in which every token recurs one period later."""
        tokens, limit = self.tokens, len(self.tokens) - period
        first, last = start, start
        while first > floor and tokens[first - 1] == tokens[first - 1 + period]:
            first -= 1
        while last < limit and tokens[last] == tokens[last + period]:
            last += 1
        return first, last

    def _verified(self, period: int, first: int, last: int, min_trip: int) -> Iterator[tuple[Run, int]]:
        start, effort = first, _EFFORT * (last - first + period)
        while start + period <= last and effort > 0:
            end, retry = self._reach(start, period, last)
            trips, slack = divmod(end + period - start, period)
            run = Run(start, period, trips)
            effort -= end - start + 1
            if end - start >= period and trips >= min_trip and self._is_loop(run):
                yield run, slack
                start = max(start + 1, run.stop - period)
            elif retry is None and trips < min_trip:
                return
            else:
                start = max(start + 1, retry or 0)

    def _reach(self, start: int, period: int, last: int) -> tuple[int, int | None]:
        """The first item before ``last`` whose arguments break a run from ``start``; the next start worth trying."""
        for index in range(start, last):
            retry = self._break_at(index, period, start)
            if retry is not None:
                return index, retry
        return last, None

    def _turns(self, period: int, first: int, last: int) -> int:
        """How many periods make a step where states take turns: the last period reads values made that long ago."""
        longest = 0
        for index in range(last, last + period):
            for (a, _), (b, _) in zip(self.args[index - period], self.args[index], strict=True):
                if a >= first and b - a == period:
                    longest = max(longest, index - b)
        # From its own step or the one before, a value is less than two periods away.
        return -(-longest // period) if longest >= 2 * period else 1

    def _holds(self, run: Run) -> bool:
        return self._reach(run.start, run.period, run.stop - run.period)[1] is None

    def _break_at(self, index: int, period: int, start: int) -> int | None:
        """None if the arguments of ``index`` fit those one period later, else the next start worth trying."""
        for (a, slot_a), (b, slot_b) in zip(self.args[index], self.args[index + period], strict=True):
            if slot_a == slot_b and ((a == b and a < start) or (b - a == period and a >= start)):
                continue
            same = self._kind((a, slot_a)) == self._kind((b, slot_b))
            if a < start and same and (b < start or index - start < period > b - start):
                continue
            if a >= start:
                return a + 1
            # Later starts leave the pair out, have both values before the loop, or make the value the initial carry.
            return min(index, b, max(index, b) - period) + 1 if same else index + 1
        return None

    def _kind(self, ref: Ref) -> Hashable:
        if ref not in self.kinds:
            self.kinds[ref] = describe(self.origin[ref].meta.get("val"))
        return self.kinds[ref]

    def _is_loop(self, run: Run) -> bool:
        """A weight is shared, what a step hands on depends on what was handed to it, and something is saved."""
        step = range(run.start, run.start + run.period)
        saved = (run.trips - 1) * sum(1 if self.items[i].loop is None else _LEAST_SAVED for i in step)
        shares = any(self._shares_weight(i, run.period) for i in step)
        return saved >= _LEAST_SAVED and shares and self._feeds_back(run)

    def _feeds_back(self, run: Run) -> bool:
        """Whether some carried value of the second step depends on itself, by way of others or not."""
        start, stop = run.start + run.period, run.start + 2 * run.period
        handed = {ref for i in range(start, stop) for ref in self.args[i] if run.start <= ref[0] < start}
        depends: dict[int, frozenset[int]] = {}
        for index in range(start, stop):
            found = frozenset().union(*(depends[a] for a, _ in self.args[index] if a >= start))
            depends[index] = found | {a + run.period for a, _ in self.args[index] if run.start <= a < start}
        open_ends = {a + run.period for a, _ in handed}
        # Drop what depends on nothing that is handed on: a cycle is what remains.
        while dropped := {a for a in open_ends if not depends[a] & open_ends}:
            open_ends -= dropped
        return bool(open_ends)

    def _shares_weight(self, index: int, period: int) -> bool:
        """A weight stands in the item's token, or is the same argument one step later."""
        following = self.args[index + period]
        return self.items[index].reads_weight or any(r in self.weights and r in following for r in self.args[index])
