"""Other orders of a block's items, for loops that the program's own order hides.

A step that reads ``x[:, t]`` differs from its neighbours by an index: with the slices next to their source the steps
are equal, and the slice is a per-step value. Loops that take turns in an irregular way come apart when every result is
computed as late as it is needed. An order is offered only if the data allow it, if it draws random numbers in the same
sequence and, with gradients on, if it reads every value in the same sequence: autograd sums in that sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from operator import getitem

import torch
from torch import fx

from laser_fx.passes.keys import is_random, stops_gradients
from laser_fx.passes.normalise import Block, Item, Ref, View

__all__ = ["is_slice", "schedules"]

aten = torch.ops.aten

_SLICES = {aten.select.int, aten.slice.Tensor, aten.narrow.default, getitem}
Order = Sequence[int]


def schedules(view: View) -> Iterator[View]:
    """The view in other orders, the likeliest first; none that equals the program's own."""
    sources = _slices_by_source(view)
    varied = {source for source, tokens in sources.items() if len(set(tokens)) > 1}
    offered: list[Order] = [list(range(len(view.block.items)))]
    for order in _orders(view, varied, set(sources)):
        if order not in offered and _allowed(view, order):
            offered.append(order)
            yield replace(view, block=_reordered(view, order))


def _orders(view: View, varied: set[Hashable], sources: set[Hashable]) -> Iterator[Order]:
    """Made one after the other: the first often shows the loop."""
    yield _hoisted(view, varied)
    yield _hoisted(view, sources)
    yield _by_demand(view.block)


def is_slice(item: Item) -> bool:
    """Whether the item takes a part of one value at fixed places."""
    return item.node is not None and item.node.target in _SLICES and len(item.node.all_input_nodes) == 1


def _sliced(view: View, item: Item) -> Hashable:
    """What a slice is taken of: a value, or a weight."""
    assert item.node is not None
    return item.args[0] if item.args else view.static[item.node.all_input_nodes[0]]


def _slices_by_source(view: View) -> dict[Hashable, list[int]]:
    """Value → the tokens of the slices that are taken of it."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for item in view.block.items:
        if is_slice(item):
            found[_sliced(view, item)].append(item.token)
    return found


def _summed(view: View, item: Item) -> list[Hashable]:
    """The values that the item reads and whose gradients may be sums: none where the graph has no gradients."""
    if not view.grad_enabled or item.node is None or stops_gradients(item.node):
        return []
    weights = [view.static[n] for n in item.node.all_input_nodes if n.op == "placeholder" and n in view.weights]
    return [*(ref for ref in item.args if _is_differentiable(view, ref)), *weights]


def _is_differentiable(view: View, ref: Ref) -> bool:
    node = view.block.origin[ref]
    return not stops_gradients(node) and (node not in view.static or node in view.weights)


def _hoisted(view: View, sources: set[Hashable]) -> Order:
    """All slices of the sources stand next to them, but for those that would overtake another reader of a sum."""
    places: list[tuple[int, int]] = []
    passed: set[Hashable] = set()
    for index, item in enumerate(view.block.items):
        if is_slice(item) and (source := _sliced(view, item)) in sources and source not in passed:
            anchor = item.args[0][0] if item.args else -1
            places.append((places[anchor][0] if anchor >= 0 else -1, index))
        else:
            passed.update(_summed(view, item))
            places.append((index, -1))
    return sorted(range(len(places)), key=places.__getitem__)


def _by_demand(block: Block) -> Order:
    """Every item just before the first that reads it, outputs in their order."""
    order: list[int] = []
    seen = bytearray(len(block.items))
    ends = [ref[0] for ref in block.outputs if isinstance(ref, tuple)]
    for end in (*ends, *range(len(block.items))):
        waiting = [end] if end >= 0 else []
        while waiting:
            index = waiting[-1]
            needed = [] if seen[index] else [a for a, _ in block.items[index].args if a >= 0 and not seen[a]]
            if needed:
                waiting.extend(reversed(needed))
                continue
            waiting.pop()
            if not seen[index]:
                seen[index] = 1
                order.append(index)
    return order


def _allowed(view: View, order: Order) -> bool:
    """Whether random draws, and readers of a value whose gradient is a sum, keep their sequence."""
    latest: dict[Hashable, int] = {}
    for index in order:
        item = view.block.items[index]
        draws = ["draw"] if item.node is not None and is_random(item.node) else []
        for watched in (*draws, *_summed(view, item)):
            if latest.get(watched, -1) > index:
                return False
            latest[watched] = index
    return True


def _reordered(view: View, order: Order) -> Block:
    """The block in another order. Without gradients, equal slices of one value become one."""
    block = view.block
    moved: dict[Ref, Ref] = {}
    items: list[Item] = []
    known: dict[Hashable, Ref] = {}
    for index in order:
        item = block.items[index]
        args = tuple(moved.get(ref, ref) for ref in item.args)
        place: Ref = (len(items), 0)
        if is_slice(item) and not view.grad_enabled:
            place = known.setdefault((item.token, args), place)
        moved[index, 0] = place
        if place[0] == len(items):
            items.append(replace(item, args=args))
    origin: dict[Ref, fx.Node] = {}
    for ref, node in block.origin.items():
        origin.setdefault(moved.get(ref, ref), node)
    outputs = [moved.get(o, o) if isinstance(o, tuple) else o for o in block.outputs]
    return Block(items, block.inputs, outputs, origin)
