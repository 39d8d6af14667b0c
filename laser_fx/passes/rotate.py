"""Where a step of a run begins: a run that goes on for a while after its last full step leaves a choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from laser_fx.passes.collapse import Run
from laser_fx.passes.normalise import Item, Ref

__all__ = ["rotations"]


def rotations(items: Sequence[Item], run: Run, slack: int) -> Iterator[Run]:
    """The run and its shifts by up to ``slack`` items: best carry first, then least cut modules, then earliest.

    The best carry holds the fewest tuples, which no file can hand on, and then the fewest values.
    """
    last_reads = _last_reads(items, run)
    widths = _crossing(last_reads, run)
    tuples = _crossing({ref: last for ref, last in last_reads.items() if _is_tuple(items[ref[0]])}, run)

    def cost(shift: int) -> tuple[int, int, int, int]:
        return tuples[shift], widths[shift], _cut_modules(items, run.start + run.period + shift), shift

    for shift in sorted(range(min(slack, run.period - 1) + 1), key=cost):
        yield Run(run.start + shift, run.period, run.trips)


def _is_tuple(item: Item) -> bool:
    return item.node is not None and isinstance(item.node.meta.get("val"), (tuple, list))


def _crossing(last_reads: Mapping[Ref, int], run: Run) -> list[int]:
    """For each shift how many of these values a step hands to the next.

    A value made at place m of a step and read last at place r, counted from the begin of that step, is handed on at
    every border between the two: at the shifts (m, r], and one step later at those up to r − period.
    """
    steps = [0] * (2 * run.period + 1)
    for made, last in last_reads.items():
        steps[made[0] - run.start + 1] += 1
        steps[last - run.start + 1] -= 1
    alive = 0
    crossing = []
    for change in steps:
        alive += change
        crossing.append(alive)
    return [crossing[shift] + crossing[shift + run.period] for shift in range(run.period)]


def _last_reads(items: Sequence[Item], run: Run) -> dict[Ref, int]:
    """Value of the first step → the last place in the first two steps that reads it."""
    first_end, second_end = run.start + run.period, run.start + 2 * run.period
    last: dict[Ref, int] = {}
    for index in range(run.start, second_end):
        for ref in items[index].args:
            if run.start <= ref[0] < first_end:
                last[ref] = index
    return last


def _cut_modules(items: Sequence[Item], border: int) -> int:
    """How many calls of modules go on across the border before an item."""
    stacks = zip(_modules(items[border - 1], -1), _modules(items[border], 0), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], stacks))


def _modules(item: Item, end: int) -> list[str]:
    """The calls of modules around an item, outermost first; a loop's are those of its first or last item."""
    while item.loop is not None:
        item = item.loop.body.items[end]
    return list(item.node.meta.get("nn_module_stack") or ()) if item.node is not None else []
