"""How the values that backward needs are kept: the rules under which a plan chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from laser_fx.memory.choose import Kept, Offers, choose
from laser_fx.memory.codecs import Codec
from laser_fx.memory.values import Values

__all__ = ["AsEager", "Everything", "Fixed", "Policy", "Priced", "codecs_of"]


class Policy(Protocol):
    """Chooses what a segment keeps, for any form of its inputs."""

    def choose(self, values: Values) -> Kept:
        """The values to keep and their codecs, None for exact; all else that backward needs can be made of them."""


@dataclass(frozen=True)
class Priced:
    """The cheapest choice where time has a price.

    Args:
        price: bytes that a nanosecond of backward is worth; see `laser_fx.memory.values.Values.time`.
        pinned: names of values that are not made again.
        offers: codecs that a value may be kept with besides exactly, by its name, each with a penalty in bytes.
    """

    price: float = 0.0
    pinned: frozenset[str] = frozenset()
    offers: Offers = field(default_factory=dict)

    def choose(self, values: Values) -> Kept:
        """See `laser_fx.memory.choose.choose`."""
        return choose(values, self.price, pinned=self.pinned, offers=self.offers)


@dataclass(frozen=True)
class AsEager:
    """Keeps what autograd keeps.

    Args:
        codecs: of the values that are not kept exactly, by name.
    """

    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def choose(self, values: Values) -> Kept:
        """The storages of the needed values."""
        return {node: self.codecs.get(node.name) for node in values.kept_by_eager}


@dataclass(frozen=True)
class Everything:
    """Keeps what autograd keeps and other values besides, to look at them.

    Args:
        codecs: by the name of the value.
    """

    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def choose(self, values: Values) -> Kept:
        """In the order of the graph."""
        wanted = set(values.kept_by_eager)
        nodes = [node for node in values.joint.graph.nodes if node in wanted or node.name in self.codecs]
        return {node: self.codecs.get(node.name) for node in nodes}


@dataclass(frozen=True)
class Fixed:
    """Keeps what another policy chooses, with codecs of its own.

    Args:
        base: chooses the values.
        codecs: by the name of the value; others are kept exactly.
    """

    base: Policy
    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def choose(self, values: Values) -> Kept:
        """The values of ``base``."""
        return {node: self.codecs.get(node.name) for node in self.base.choose(values)}


def codecs_of(kept: Kept) -> dict[str, Codec]:
    """The codecs of a choice by the name of the value; exact ones are left out."""
    return {node.name: codec for node, codec in kept.items() if codec is not None}
