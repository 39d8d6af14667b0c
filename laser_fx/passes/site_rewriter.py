"""What a pass that rewrites sites says, and what it writes with. `laser_fx.passes.rewrite_sites` does the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import fx

from laser_fx.loops import Site
from laser_fx.marks import MARK, Mark
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.infra import PassResult, placeholder

__all__ = ["Carried", "Emitter", "RewrittenSites", "SiteRewriter", "Watching", "identifier"]


@dataclass(frozen=True)
class RewrittenSites(PassResult):
    """A graph with its sites rewritten.

    Args:
        records: keys of the sites whose records are the graph's last outputs, in order. A record is a list over steps,
            nested as the loops are.
        constants: names of the placeholders that were added, at the end of the graph's inputs.
    """

    records: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()


class Emitter:
    """Adds nodes to a graph, with their fake values, a mark of where they belong, and the code that they stand for."""

    def __init__(
        self, graph: fx.Graph, fake_mode: Any, grad_enabled: bool, mark: Mark, stack_trace: str | None = None
    ) -> None:
        self.graph, self.fake_mode, self.grad_enabled, self.mark = graph, fake_mode, grad_enabled, mark
        self.stack_trace = stack_trace

    def at(self, site: str) -> Emitter:
        """The same for the nodes of a site, by its key."""
        return Emitter(self.graph, self.fake_mode, self.grad_enabled, replace(self.mark, site=site), self.stack_trace)

    def call(self, target: Any, args: tuple[Any, ...], name: str, **kwargs: Any) -> fx.Node:
        node = self.graph.create_node("call_function", target, args, kwargs, name)
        with self.fake_mode, torch.no_grad():
            values = fx.map_arg(args, lambda n: n.meta["val"])
            node.meta = {"val": target(*values, **kwargs), GRAD_ENABLED: self.grad_enabled, MARK: self.mark}
        if self.stack_trace:
            node.stack_trace = self.stack_trace
        return node

    def placeholder(self, name: str, value: Any) -> fx.Node:
        node = placeholder(self.graph, name, value, self.grad_enabled)
        node.meta[MARK] = self.mark
        return node


Carried = Mapping[str, fx.Node]
"""What a site hands to its next step, by a word for each value; empty where it hands on nothing."""


class SiteRewriter(Protocol):
    """What stands at a site after the rewrite."""

    title: str
    """Heads the printed graph."""

    carries_basis: bool
    """Whether each site hands a basis to its next step."""

    records: bool
    """Whether each site has a record."""

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        """Placeholders to add at the top: name → shape, all float32."""

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        """At the top: the values that every step of the site takes."""

    def stacked(self, site: Site) -> int:
        """How many of the leading values of `prepare` have the trips of all loops around the site in front."""

    def first_basis(self, emit: Emitter, site: Site) -> Carried:
        """At the top: the basis before the first step, and what is carried with it."""

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node | None, Carried, fx.Node | None]:
        """In the body: (value that replaces the linear's or None to keep it, next basis, record)."""


class Watching:
    """The parts of a `SiteRewriter` that only looks on: nothing is made at the top, nothing is carried."""

    carries_basis = False

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        return {}

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        return ()

    def stacked(self, site: Site) -> int:
        return 0

    def first_basis(self, emit: Emitter, site: Site) -> Carried:
        raise NotImplementedError("what only looks on carries no basis")


def identifier(name: str) -> str:
    """A module path as part of a node's name.

    >>> identifier("layers.0.mlp.up#1")
    'layers_0_mlp_up_1'
    """
    return re.sub(r"\W", "_", name)
