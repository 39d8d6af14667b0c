"""A choice that was made for inputs of one size, for inputs of any size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from laser_fx.memory.choose import Kept
from laser_fx.memory.codecs import Codec
from laser_fx.memory.policy import Policy, Priced
from laser_fx.memory.values import Values

__all__ = ["Settled"]

Structure = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Settled:
    """Keeps what another policy chose for the inputs that a plan was made for.

    A budget is a share of what eager keeps, and all that a step keeps grows with its rows: the same values have the
    same share. What time is worth does not grow so: in a small batch operators take the time of their calls.

    Codecs were measured on these values, and are taken for no others.

    Args:
        base: chooses where the traced graph is another one, as for other strides; exactly.
        graph: the nodes of the traced graph that the choice was made in, each with its operator and sources.
        kept: the chosen values by name, with their codecs.
    """

    base: Policy
    graph: Structure
    kept: Mapping[str, Codec | None]

    @classmethod
    def on(cls, values: Values, base: Policy) -> Self:
        """What ``base`` chooses here."""
        exactly = replace(base, offers={}) if isinstance(base, Priced) else base
        return cls(exactly, _structure(values), {node.name: codec for node, codec in base.choose(values).items()})

    def choose(self, values: Values) -> Kept:
        """The values of the same names."""
        if _structure(values) != self.graph:
            return self.base.choose(values)
        nodes = values.joint.graph.nodes
        return {node: self.kept[node.name] for node in nodes if node.name in self.kept}


def _structure(values: Values) -> Structure:
    nodes = values.joint.graph.nodes
    return tuple([(node.name, str(node.target), *(source.name for source in node.all_input_nodes)) for node in nodes])
