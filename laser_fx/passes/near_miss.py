"""Repetitions that are nearly loops, and what keeps them from being one.

For people, not for the compiler: `compile` never runs it. The search knows nothing of how loops are found. It looks for
stretches in which mostly the same operators recur and which are not one loop, and compares their steps operator by
operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise, takewhile
from typing import Any

from laser_fx.loops import NearMiss
from laser_fx.passes.detect import detect
from laser_fx.passes.difference import Comparer, Difference
from laser_fx.passes.normalise import Block, View
from laser_fx.passes.pipeline import view_of
from laser_fx.passes.repetition import Stretch, repetitions
from laser_fx.passes.source import node_line
from laser_fx.passes.steps import Operators, Steps
from laser_fx.program import Program

__all__ = ["find_near_misses", "near_misses_of"]


def near_misses_of(program: Program, at_most: int = 3) -> tuple[NearMiss, ...]:
    """The best near-misses of a program's captured graph, which is searched for loops once more.

    Args:
        program: any program.
        at_most: how many to return.
    """
    view = view_of(program.model, program.capture)
    min_trip = program.options.min_trip
    return find_near_misses(view, detect(view, min_trip), program.capture.states, min_trip, at_most)


def find_near_misses(
    view: View, block: Block, states: Mapping[str, str], min_trip: int = 2, at_most: int = 3
) -> tuple[NearMiss, ...]:
    """The best near-misses, outermost and then longest first; none where loops explain every repetition.

    Args:
        view: from `normalise`.
        block: what `detect` made of the view.
        states: placeholder → name of the parameter or buffer in the model.
        min_trip: shortest repetition that counted as a loop.
        at_most: how many to return.
    """
    operators, compare = Operators(view), Comparer(view, states)
    numbers = {item.node: index for index, item in enumerate(view.block.items)}
    regions = _regions(block, numbers, range(len(view.block.items)))
    found = (miss for region in regions for miss in _Search(operators, compare, region, min_trip).run())
    return tuple(islice(found, at_most))


@dataclass(frozen=True)
class _Region:
    """The operators of the whole graph, or of the first step of a loop in it.

    Args:
        inner: it is such a step: only what goes on behind the odd step is worth a word there.
        left_over: operators in no loop of the region.
        starts: first operators of its loops.
    """

    span: range
    inner: bool
    left_over: frozenset[int]
    starts: frozenset[int]


def _regions(block: Block, numbers: Mapping[Any, int], span: range, inner: bool = False) -> Iterator[_Region]:
    loops = [item.loop for item in block.items if item.loop is not None]
    spans = [_span(loop, numbers) for loop in loops]
    left_over = frozenset(numbers[item.node] for item in block.items if item.loop is None)
    # Loops that are interleaved in program order have no border between them.
    interleaved = any(a.stop > b.start for a, b in pairwise(sorted(spans, key=lambda s: s.start)))
    starts = frozenset[int]() if interleaved else frozenset(s.start for s in spans)
    yield _Region(span, inner, left_over, starts)
    for loop, whole in zip(loops, spans, strict=True):
        first_step = range(whole.start, whole.start + len(whole) // loop.trip_count)
        yield from _regions(loop.body, numbers, first_step, True)


def _span(loop: Any, numbers: Mapping[Any, int]) -> range:
    start = numbers[loop.nodes[0][0]]
    return range(start, start + loop.trip_count * _length(loop.body))


def _length(block: Block) -> int:
    """Operators of a block, its loops unrolled."""
    return sum(1 if item.loop is None else item.loop.trip_count * _length(item.loop.body) for item in block.items)


class _Search:
    """Near-misses of one region."""

    def __init__(self, operators: Operators, compare: Comparer, region: _Region, min_trip: int) -> None:
        self.operators, self.compare, self.region, self.min_trip = operators, compare, region, min_trip

    def run(self) -> Iterator[NearMiss]:
        """One for each place, longest first."""
        borders, seen = self.region.left_over | self.region.starts, set[int]()
        for stretch in self._stretches():
            inside = borders.intersection(range(stretch.start, stretch.stop))
            miss = self._judge(stretch) if inside and not inside & seen else None
            if miss is not None:
                # The steps on either side of an odd one tell the same story.
                seen.update(range(stretch.start - stretch.period, stretch.stop + stretch.period))
                yield miss

    def _stretches(self) -> list[Stretch]:
        first, stop = self.region.span.start, self.region.span.stop
        found = repetitions(self.operators.exact[first:stop], self.operators.alike[first:stop])
        return [replace(stretch, start=stretch.start + first, stop=stretch.stop + first) for stretch in found]

    def _judge(self, stretch: Stretch) -> NearMiss | None:
        """What keeps the stretch from being a loop, None if that is not worth a word."""
        steps = self.operators.steps(stretch, self.region.starts)
        uses = self.operators.uses(steps)
        if steps.trips < 2 or not uses:
            return None
        breaks, shared = self.operators.breaks(steps), uses > 1
        if not breaks:
            alone = self.region.inner or steps.period == 1
            return None if alone else self._beside(steps) or self._no_loop(steps, shared)
        if len(breaks) == steps.trips - 1 and self._mostly_in_loops(steps):
            return None
        if len(breaks) == steps.trips - 1 and self._all_differ(steps, breaks[1]) and not self.region.inner:
            return self._every_step(steps, breaks[1], shared)
        return self._one_step(steps, breaks, shared)

    def _mostly_in_loops(self, steps: Steps) -> bool:
        inside = range(steps.first, steps.stop)
        return 2 * len(self.region.left_over.intersection(inside)) < len(inside)

    def _one_step(self, steps: Steps, breaks: Mapping[int, int], shared: bool) -> NearMiss | None:
        """Some steps repeat: the odd one follows them, or comes before them."""
        runs = list(pairwise([0, *sorted(breaks), steps.trips]))
        behind = [(stop - start, stop, True) for start, stop in runs if stop in breaks]
        ahead = [(stop - start, start, False) for start, stop in runs if start in breaks]
        # Two equal steps with the odd one behind them read best; then the longest run; then the first.
        ranked = sorted((*behind, *ahead), key=lambda e: (-min(e[0], 2), not e[2], -e[0], e[1]))
        if ranked[0][0] == 1 and not shared:
            return None
        for repeated, border, follows in ranked:
            if self._is_open(steps, border, follows):
                return self._differs(steps, repeated, breaks[border], follows)
        return None

    def _is_open(self, steps: Steps, border: int, follows: bool) -> bool:
        """Whether the border is not inside a loop; in a loop's step also whether the repetition goes on behind it."""
        if self.region.inner and not (follows and border < steps.trips - 1):
            return False
        inside = range(steps.first, steps.stop)
        starts = [start for start in self.region.starts if start in inside]
        first, stop = steps.start(border - 1), steps.start(border + 1)
        between = any(start in range(first + 1, stop) for start in starts)
        return between or len(starts) > 1 or not self.region.left_over.isdisjoint(range(first, stop))

    def _differs(self, steps: Steps, repeated: int, index: int, follows: bool) -> NearMiss:
        """``index``: the operator at which two steps part. ``follows``: its step is the odd one."""
        later, earlier = steps.place(index), steps.place(index - steps.period)
        usual, odd = (earlier, later) if follows else (later, earlier)
        found = self._swapped(steps, usual.index, odd.index) or self.compare.difference(usual, odd)
        step = (odd.step_start - steps.first) // steps.period
        if repeated == 1:
            opening = f"{steps.trips} steps of {_operators(steps)} look alike, but differ"
        else:
            number = f"the {_ordinal(step + 1)}" if follows else "the one before them"
            opening = f"{repeated} steps of {_operators(steps)} repeat, {number} does not"
        return self._miss(steps, repeated, step, found, opening, "before" if follows else "after")

    def _swapped(self, steps: Steps, usual: int, odd: int) -> Difference | None:
        """Two operators that changed places."""
        exact, shift = self.operators.exact, odd - usual
        for later in range(odd + 1, steps.place(odd).step_start + steps.period):
            if (exact[later], exact[later - shift]) == (exact[usual], exact[odd]):
                first, second = self.operators.node(odd), self.operators.node(later)
                text = f"comes before {self.compare.label(second)}"
                return Difference(first, None, text, "have the two operators in the other order")
        return None

    def _all_differ(self, steps: Steps, index: int) -> bool:
        """No two steps are equal at the operator that breaks the second one."""
        offset = index - steps.start(1)
        tokens = [self.operators.exact[steps.start(step) + offset] for step in range(steps.trips)]
        return steps.trips > 2 and len(set(tokens)) == steps.trips

    def _every_step(self, steps: Steps, index: int, shared: bool) -> NearMiss | None:
        if not self.operators.feed(steps):
            return None
        found = self.compare.difference(steps.place(index - steps.period), steps.place(index))
        reason = "no two of them are equal" if shared else "every step reads weights of its own"
        return self._miss(steps, 1, None, found, f"{steps.trips} steps of {_operators(steps)} look alike, but {reason}")

    def _no_loop(self, steps: Steps, shared: bool) -> NearMiss | None:
        """Equal steps that detection did not make a loop of."""
        if self.region.left_over.isdisjoint(range(steps.first, steps.stop)):
            return None
        feeds = self.operators.feed(steps)
        if steps.trips < self.min_trip and shared and feeds:
            reason = f"a loop has {self.min_trip} at least (Options.min_trip)"
        elif shared and not feeds:
            reason = "the steps do not feed each other"
        elif feeds and not shared:
            reason = "they share no weight"
        else:
            return None
        node = self.operators.node(steps.first)
        text = f"{steps.trips} steps of {_operators(steps)} repeat, but {reason}"
        return NearMiss(steps.trips, steps.period, None, node.name, None, text, node_line(node))

    def _beside(self, steps: Steps) -> NearMiss | None:
        """A step of another length right behind the equal ones, or right before them."""
        ways = ((way, surplus) for way in (1, -1) for surplus in (1, -1, 2, -2))
        return next((miss for way, surplus in ways if (miss := self._other_length(steps, way, surplus))), None)

    def _other_length(self, steps: Steps, way: int, surplus: int) -> NearMiss | None:
        """``way``: 1 behind the steps, −1 before them. ``surplus``: how many operators the odd step has more."""
        edge = steps.stop if way > 0 else steps.first - 1
        ahead = self._matching(edge, edge - way * steps.period, way, steps.period)
        odd = edge + way * ahead
        usual = odd - way * steps.period
        there = usual + way * max(-surplus, 0)
        rest = self._matching(odd + way * max(surplus, 0), there, way, abs(edge - there) + 1)
        step = range(min(edge, odd), max(edge, odd) + 1)
        if not rest or 2 * (ahead + rest) < steps.period or self.region.left_over.isdisjoint(step):
            return None
        return self._surplus(steps, odd, usual, way, surplus)

    def _matching(self, here: int, there: int, way: int, limit: int) -> int:
        """How many operators from ``here`` on are those from ``there`` on."""
        exact, span = self.operators.exact, self.region.span
        pairs = ((here + way * k, there + way * k) for k in range(limit))
        return sum(1 for _ in takewhile(lambda p: p[0] in span and p[1] in span and exact[p[0]] == exact[p[1]], pairs))

    def _surplus(self, steps: Steps, odd: int, usual: int, way: int, surplus: int) -> NearMiss:
        node, missing = self.operators.node(odd), self.operators.node(usual).name
        found = Difference(node, None, "stands where an operator is missing", f"have {missing}")
        if surplus > 0:
            found = Difference(node, None, "is an additional operator", "have none")
        number, step = (f"the {_ordinal(steps.trips + 1)}", steps.trips) if way > 0 else ("the one before them", 0)
        opening = f"{steps.trips} steps of {_operators(steps)} repeat, {number} does not"
        return self._miss(steps, steps.trips, step, found, opening, "before" if way > 0 else "after")

    def _miss(
        self,
        steps: Steps,
        repeated: int,
        step: int | None,
        found: Difference,
        opening: str,
        side: str = "before",
    ) -> NearMiss:
        clause = f"{self.compare.label(found.node)} {found.odd}, where the steps {side} {found.usual}"
        reason, line = f"{opening}: {clause}", node_line(found.node)
        return NearMiss(repeated, steps.period, step, found.node.name, found.argument, reason, line)


def _operators(steps: Steps) -> str:
    return f"{steps.period} operator" + ("" if steps.period == 1 else "s")


def _ordinal(number: int) -> str:
    """
    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 22)]
    ['1st', '2nd', '3rd', '4th', '11th', '22nd']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
