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

from collections import Counter

from laser_fx.passes.collapse import FoundLoop, collapse
from laser_fx.passes.normalise import Block, View
from laser_fx.passes.runs import Search
from laser_fx.passes.schedule import is_slice, schedules

__all__ = ["FoundLoop", "detect"]


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
        search = Search(block, view.weights)
        # A repetition of three is evidence by itself; two steps are looked for only where nothing longer is left.
        runs = search.runs(max(3, min_trip)) or (search.runs(min_trip) if min_trip < 3 else [])
        if not runs:
            return block
        block = collapse(block, runs, view.intern, lambda body: _detect(body, view, min_trip))
