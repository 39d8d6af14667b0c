"""Which values of a segment are kept for backward, and with which codec, as a minimum cut.

Every value of the forward that backward needs is kept, which costs its bytes, or made again from others that are then
needed too, which costs time. At a price of time in bytes, the cheapest choice is a minimum cut of a network in which a
value stands twice: as needed and as made again. A value that may be kept with several codecs costs what the cheapest
of them costs.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from torch import fx

from laser_fx.memory.codecs import Codec
from laser_fx.memory.flow import INFINITE, Network
from laser_fx.memory.operators import is_random, is_view
from laser_fx.memory.values import Values, ancestors

__all__ = ["Kept", "Offers", "choose", "is_whole"]

Kept = Mapping[fx.Node, Codec | None]
"""The values that are kept, in the order of the graph, with their codecs; None for exact."""
Offers = Mapping[str, Sequence[tuple[Codec, int]]]
"""Name of a value → codecs that it may be kept with, each with a penalty in bytes for what it does to gradients."""

_SOURCE, _SINK = "source", "sink"


def choose(
    values: Values, price: float, *, pinned: AbstractSet[str] = frozenset(), offers: Offers | None = None
) -> Kept:
    """The values to keep; all else that backward needs can be made of them.

    Args:
        values: of the segment.
        price: bytes that one unit of `Values.time` is worth. Zero keeps the least bytes.
        pinned: names of values that may not be made again.
        offers: codecs besides exact.
    """
    # A carry kept exactly is one tensor with the result of the step before: it costs its bytes once, whether
    # one of the two is kept or both. A cut sees each by itself, so it is made with both at their bytes and both free.
    markets = [_Market(values, price, offers or {}, free) for free in ((True, False) if values.carries else (False,))]
    return min((_cut(market, pinned) for market in markets), key=markets[0].cost)


def _cut(market: _Market, pinned: AbstractSet[str]) -> Kept:
    values, network = market.values, Network()
    for node in values.needed:
        network.connect(_SOURCE, _needed(node), INFINITE)
    for node in values.joint.graph.nodes:
        if node in values.forward:
            fixed = is_random(node) or node.name in pinned
            _connect(network, market, node, INFINITE if fixed else market.making(node))
    side = network.source_side(_SOURCE, _SINK)
    return {
        node: market.keeping(node)[1]
        for node in values.joint.graph.nodes
        if _needed(node) in side and (node.op == "placeholder" or _made(node) not in side)
    }


class _Market:
    """What keeping a value and making it again cost, in bytes."""

    def __init__(self, values: Values, price: float, offers: Offers, carries_free: bool) -> None:
        self.values, self.price, self.offers = values, price, offers
        self._weigh = values.weight if carries_free else values.share

    def cost(self, kept: Kept) -> float:
        """What a choice costs in all."""
        again = ancestors(self.values.needed, set(kept)) & self.values.forward
        made = sum(self.making(node) for node in again)
        coded = ((node, codec) for node, codec in kept.items() if codec is not None)
        return self.values.total(kept) + made + sum(self._extra(node, codec) for node, codec in coded)

    def keeping(self, node: fx.Node) -> tuple[int, Codec | None]:
        """The least cost, and the codec that has it."""
        exact = self._weigh(node)
        offers = self.offers.get(node.name, ())
        prices = [(exact, None), *((self._with(node, codec), codec) for codec, _ in offers)]
        return min(prices, key=lambda pair: pair[0])

    def making(self, node: fx.Node) -> int:
        if is_view(node) or node.target is operator.getitem:
            return 0
        return 1 + int(self.price * self.values.time(node))  # of two choices that weigh the same, the quicker one

    def _with(self, node: fx.Node, codec: Codec) -> int:
        return self.values.encoded(node, codec).bytes + self._extra(node, codec)

    def _extra(self, node: fx.Node, codec: Codec) -> int:
        """What a codec costs besides bytes: its time, and its penalty."""
        penalty = dict(self.offers[node.name])[codec]
        return penalty + int(self.price * self.values.encoded(node, codec).time)


def _connect(network: Network, market: _Market, node: fx.Node, cost: int) -> None:
    if node.op == "placeholder":
        network.connect(_needed(node), _SINK, market.keeping(node)[0])
        return
    network.connect(_needed(node), _made(node), market.keeping(node)[0] if is_whole(node) else INFINITE)
    network.connect(_made(node), _SINK, cost)
    for source in node.all_input_nodes:
        network.connect(_made(node), _needed(source), INFINITE)


def is_whole(node: fx.Node) -> bool:
    """Whether a value has a storage of its own: a part of a tuple or a view weighs what it is a part of."""
    return not is_view(node) and not isinstance(node.meta.get("val"), (tuple, list))


def _needed(node: fx.Node) -> tuple[str, fx.Node]:
    return "needed", node


def _made(node: fx.Node) -> tuple[str, fx.Node]:
    return "made", node
