"""Finds the weight-shared loops of a normalised view, nested ones too.

A loop of period p is a run of items in which every item has the token of the one p places before it, and every argument
is, compared with the same argument one step earlier, one of

- *shifted*: made by the corresponding item of its own step, or of the step before (then it is carried);
- *invariant*: the same value, made before the loop;
- *per step*: another value, also made before the loop;
- in the first step only, a value from before the loop where later steps read the carry: its initial value.

A run that breaks any of these is not a loop. Runs are collapsed into one item, and the search goes on outside and
inside.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from torch import fx

from laser_fx.passes.collapse import FoundLoop, Run, collapse
from laser_fx.passes.keys import describe
from laser_fx.passes.normalise import Block, Ref, View
from laser_fx.passes.schedule import is_slice, schedules

__all__ = ["FoundLoop", "detect"]

_RECURRENCES = 3
"""Periods are proposed by the next few occurrences of a token; longer ones appear once shorter loops are collapsed."""


def detect(view: View, min_trip: int = 2) -> Block:
    """The view's block with every loop collapsed into one item.

    Args:
        view: from `normalise`.
        min_trip: shortest repetition that counts.

    The items are taken in the program's order first. Where operations with one weight are left that stand beside each
    other, `schedules` has other orders that may show the loop behind them; what leaves the fewest is returned.
    """
    found = _detect(view.block, view, min_trip)
    best = (_left(found), found)
    if best[0]:
        for other in schedules(view):
            found = _detect(other.block, other, min_trip)
            best = min(best, (_left(found), found), key=lambda pair: pair[0])
            if not best[0]:
                break
    return best[1]


def _left(block: Block) -> int:
    """Items that share a weight, and everything else, with another one of their level: a loop may be behind them."""
    counts = Counter(item.token for item in block.items if item.reads_weight and not is_slice(item))
    inner = sum(_left(item.loop.body) for item in block.items if item.loop is not None)
    return sum(count for count in counts.values() if count > 1) + inner


def _detect(block: Block, view: View, min_trip: int) -> Block:
    while True:
        search = _Search(block, view.weights)
        # A repetition of three is evidence by itself; two steps are looked for only where nothing longer is left.
        runs = search.runs(max(3, min_trip)) or (search.runs(min_trip) if min_trip < 3 else [])
        if not runs:
            return block
        block = collapse(block, runs, view.intern, lambda body: _detect(body, view, min_trip))


class _Search:
    """Runs of one block."""

    def __init__(self, block: Block, weights: frozenset[fx.Node]) -> None:
        self.items = block.items
        self.weights = {ref for ref, node in block.origin.items() if node in weights}
        self.tokens = [item.token for item in block.items]
        self.args = [item.args for item in block.items]
        self.kinds = {ref: describe(node.meta.get("val")) for ref, node in block.origin.items()}

    def runs(self, min_trip: int) -> list[Run]:
        """The best runs that do not overlap: most items first, then the shortest period, then the earliest."""
        found = [run for period, starts in self._periods() for run in self._runs_of(period, starts, min_trip)]
        found.sort(key=lambda pair: (-pair[0].period * pair[0].trips, pair[0].period, pair[0].start))
        taken = bytearray(len(self.items))
        chosen = []
        for run, slack in found:
            if any(taken[run.start : run.stop]):
                continue
            run = self._rotate(run, slack, taken)
            taken[run.start : run.stop] = b"\1" * (run.stop - run.start)
            chosen.append(run)
        return sorted(chosen, key=lambda run: run.start)

    def _periods(self) -> list[tuple[int, list[int]]]:
        """Proposed periods, shortest first, each with the places where it may begin."""
        places: dict[object, list[int]] = defaultdict(list)
        for index, (token, args) in enumerate(zip(self.tokens, self.args, strict=True)):
            places[token].append(index)
            # The distance of each argument tells apart items that have one token but another role.
            places[token, tuple((index - a if a >= 0 else -1, slot) for a, slot in args)].append(index)
        proposed: dict[int, set[int]] = defaultdict(set)
        for indices in places.values():
            for ahead in range(1, _RECURRENCES + 1):
                for first, second in zip(indices, indices[ahead:], strict=False):
                    proposed[second - first].add(first)
        return [(period, sorted(starts)) for period, starts in sorted(proposed.items())]

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
        start = first
        while start + period <= last:
            broken = self._first_break(start, period)
            if broken is not None:
                start = max(broken, start + 1)
                continue
            end = start + period
            while end < last and self._break_at(end, period, start, False) is None:
                end += 1
            trips, slack = divmod(end + period - start, period)
            run = Run(start, period, trips)
            if trips >= min_trip and self._is_recursive(run):
                yield run, slack
                start = run.stop - period if slack else max(start + 1, run.stop - period)
            else:
                start += 1

    def _turns(self, period: int, first: int, last: int) -> int:
        """How many periods make a step where states take turns: the last period reads values made that long ago."""
        longest = 0
        for index in range(last, last + period):
            for (a, _), (b, _) in zip(self.args[index - period], self.args[index], strict=True):
                if a >= first and b - a == period:
                    longest = max(longest, index - b)
        # From its own step or the one before, a value is less than two periods away.
        return -(-longest // period) if longest >= 2 * period else 1

    def _first_break(self, start: int, period: int) -> int | None:
        for index in range(start, start + period):
            broken = self._break_at(index, period, start, True)
            if broken is not None:
                return broken
        return None

    def _break_at(self, index: int, period: int, start: int, first: bool) -> int | None:
        """None if the arguments of ``index`` fit those one period later, else the next start worth trying."""
        for (a, slot_a), (b, slot_b) in zip(self.args[index], self.args[index + period], strict=True):
            same = slot_a == slot_b
            if same and ((a == b and a < start) or (b - a == period and a >= start)):
                continue
            if a < start and b < start and self._same_kind((a, slot_a), (b, slot_b)):
                continue
            if first and a < start <= b < start + period and self._same_kind((a, slot_a), (b, slot_b)):
                continue
            if a >= start:
                return a + 1
            # A start nearer to what the next step carries makes it the step before; no other start helps.
            return max(start + 1, min(b - period, index) + 1)
        return None

    def _same_kind(self, a: Ref, b: Ref) -> bool:
        return self.kinds[a] == self.kinds[b]

    def _is_recursive(self, run: Run) -> bool:
        """A weight is shared, and what a step hands on depends on what was handed to it."""
        step = range(run.start, run.start + run.period)
        return any(self._shares_weight(i, run.period) for i in step) and self._feeds_back(run)

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

    def _carry_width(self, run: Run) -> int:
        second = range(run.start + run.period, run.start + 2 * run.period)
        return len({ref for i in second for ref in self.args[i] if run.start <= ref[0] < run.start + run.period})

    def _rotate(self, run: Run, slack: int, taken: bytearray) -> Run:
        """Of the starts that the slack allows: narrowest carry, then the least cut modules, then earliest."""
        best = (self._carry_width(run), self._depth(run), 0)
        for shift in range(1, min(slack, run.period - 1) + 1):
            moved = replace(run, start=run.start + shift)
            free = not any(taken[moved.start : moved.stop])
            if free and self._holds(moved) and self._is_recursive(moved):
                best = min(best, (self._carry_width(moved), self._depth(moved), shift))
        return replace(run, start=run.start + best[2])

    def _holds(self, run: Run) -> bool:
        last = run.stop - run.period
        return self._first_break(run.start, run.period) is None and all(
            self._break_at(i, run.period, run.start, False) is None for i in range(run.start + run.period, last)
        )

    def _depth(self, run: Run) -> int:
        """How many modules the border between two steps cuts through."""
        stacks = zip(
            self._modules(run.start + run.period - 1, -1), self._modules(run.start + run.period, 0), strict=False
        )
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], stacks))

    def _modules(self, index: int, end: int) -> list[str]:
        """The calls of modules around an item, outermost first; a loop's are those of its first or last item."""
        item = self.items[index]
        while item.loop is not None:
            item = item.loop.body.items[end]
        return list(item.node.meta.get("nn_module_stack") or ()) if item.node is not None else []
