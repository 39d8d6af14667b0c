"""Finds the sites of a rolled graph: every linear in a loop whose weight is the same at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import fx

from laser_fx.loops import Site
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.infra import rolled_loop
from laser_fx.passes.source import module_path

__all__ = ["PlacedSite", "find_sites", "size_hint"]

_LINEAR = torch.ops.aten.linear.default
_CASTS = (torch.ops.aten.to.dtype, torch.ops.aten._to_copy.default, torch.ops.aten.detach.default)


@dataclass(frozen=True)
class PlacedSite:
    """A site and the node of a loop's body where it stands."""

    site: Site
    node: fx.Node
    is_parameter: bool = True
    """Whether its matrix is the parameter itself, or a cast of it."""
    trains: bool = True
    """Whether its matrix asks for a gradient: autograd keeps the activation for that one alone."""


@dataclass(frozen=True)
class _Weight:
    """What a value is made of: the first of its parameters, and whether it is that parameter."""

    name: str
    is_parameter: bool = True
    trains: bool = True
    """Whether any of its parameters asks for a gradient."""

    def through(self, node: fx.Node, sources: Iterable[_Weight]) -> _Weight:
        """The weight that a node makes of it and others."""
        trains = any(source.trains for source in sources)
        return replace(self, is_parameter=self.is_parameter and node.target in _CASTS, trains=trains)


def find_sites(
    rolled: fx.GraphModule,
    states: Mapping[str, str],
    *,
    with_gradients: bool = False,
    of_parameters: bool = False,
) -> tuple[PlacedSite, ...]:
    """All sites, in program order.

    Args:
        rolled: an exact rolled graph.
        states: placeholder → name of the parameter or buffer in the model.
        with_gradients: only those whose activation autograd would save.
        of_parameters: only those whose matrix is the parameter itself, or a cast of it: not ``w * 0.5``.
    """
    holders = [n for n in rolled.graph.find_nodes(op="placeholder") if n.name in states]
    weights = {n: _Weight(states[n.name], trains=n.meta["val"].requires_grad) for n in holders}
    found = [p for p in _walk(rolled, "", 1, weights) if not with_gradients or (p.trains and p.node.meta[GRAD_ENABLED])]
    found = [p for p in found if p.is_parameter or not of_parameters]
    seen: Counter[str] = Counter()
    return tuple(_distinct(placed, seen) for placed in found)


def size_hint(size: Any) -> int:
    """A size as a number: a dynamic one as it was in the example."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _distinct(placed: PlacedSite, seen: Counter[str]) -> PlacedSite:
    """A module called twice in one body makes two sites: the second is named ``module#1``."""
    count = seen[placed.site.key]
    seen[placed.site.key] += 1
    return replace(placed, site=replace(placed.site, name=f"{placed.site.name}#{count}")) if count else placed


def _walk(
    graph_module: fx.GraphModule, loop_name: str, steps: int, weights: Mapping[fx.Node, _Weight]
) -> Iterator[PlacedSite]:
    """Sites of a graph and of the loops in it. ``weights``: node → parameter that it is, or is made of."""
    weights = dict(weights)
    for node in graph_module.graph.nodes:
        loop = rolled_loop(graph_module, node)
        if loop is not None:
            fixed = loop.body.graph.find_nodes(op="placeholder")[loop.varying_inputs :]
            given = node.args[loop.varying_arguments :]
            inner = {p: weights[a] for p, a in zip(fixed, given, strict=True) if a in weights}
            yield from _walk(loop.body, loop.name, steps * loop.trip_count, inner)
        elif loop_name and node.target is _LINEAR and node.args[1] in weights and node.args[0] not in weights:
            weight = weights[node.args[1]]
            yield PlacedSite(_site(node, loop_name, steps, weight.name), node, weight.is_parameter, weight.trains)
        elif node.op == "call_function" and node.all_input_nodes and all(a in weights for a in node.all_input_nodes):
            made_of = [weights[source] for source in node.all_input_nodes]
            weights[node] = made_of[0].through(node, made_of)


def _site(node: fx.Node, loop_name: str, steps: int, weight: str) -> Site:
    activation, matrix = (source.meta["val"] for source in node.all_input_nodes[:2])
    return Site(
        name=module_path(node) or weight.removesuffix(".weight"),
        loop=loop_name,
        weight=weight,
        rows=prod(size_hint(size) for size in activation.shape[:-1]),
        features=size_hint(activation.shape[-1]),
        outputs=size_hint(matrix.shape[0]),
        steps=steps,
    )
