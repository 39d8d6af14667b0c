"""Which values of a segment are kept for backward, as a minimum cut.

Every value of the forward that backward needs is kept, which costs its bytes, or made again from others that are then
needed too, which costs time. At a price of time in bytes, the cheapest choice is a minimum cut of a network in which a
value stands twice: as needed and as made again.
"""

from __future__ import annotations

import operator
from collections.abc import Set as AbstractSet

from torch import fx

from laser_fx.memory.flow import INFINITE, Network
from laser_fx.memory.values import Values, is_product, is_random, is_view

__all__ = ["choose"]

_SOURCE, _SINK = "source", "sink"


def choose(
    values: Values, price: float, *, products: bool, pinned: AbstractSet[str] = frozenset()
) -> tuple[fx.Node, ...]:
    """The values to keep, in the order of the graph; all else that backward needs can be made of them.

    Args:
        values: of the segment.
        price: bytes that one unit of `Values.time` is worth. Zero keeps the least bytes.
        products: whether matrix products and attention may be made again.
        pinned: names of other values that may not.
    """
    network = Network()
    for node in values.needed:
        network.connect(_SOURCE, _needed(node), INFINITE)
    for node in values.joint.graph.nodes:
        if node in values.forward:
            fixed = is_random(node) or node.name in pinned or (is_product(node) and not products)
            _connect(network, values, node, INFINITE if fixed else _cost(values, node, price))
    side = network.source_side(_SOURCE, _SINK)
    return tuple(
        node
        for node in values.joint.graph.nodes
        if _needed(node) in side and (node.op == "placeholder" or _made(node) not in side)
    )


def _connect(network: Network, values: Values, node: fx.Node, cost: int) -> None:
    if node.op == "placeholder":
        network.connect(_needed(node), _SINK, values.weight(node))
        return
    # A part of a tuple or a view weighs what it is a part of: only that can be kept.
    is_whole = not is_view(node) and not isinstance(node.meta.get("val"), (tuple, list))
    network.connect(_needed(node), _made(node), values.weight(node) if is_whole else INFINITE)
    network.connect(_made(node), _SINK, cost)
    for source in node.all_input_nodes:
        network.connect(_made(node), _needed(source), INFINITE)


def _cost(values: Values, node: fx.Node, price: float) -> int:
    if is_view(node) or node.target is operator.getitem:
        return 0
    return 1 + int(price * values.time(node))  # of two choices that weigh the same, the one that makes less again


def _needed(node: fx.Node) -> tuple[str, fx.Node]:
    return "needed", node


def _made(node: fx.Node) -> tuple[str, fx.Node]:
    return "made", node
