"""Sums ``GᵀG`` of the gradient at every site's output: how strongly an answer depends on it, and in which directions.

A graph that was captured without gradients detaches between steps; what is collected here is the derivative of what the
graph computes, so detaching and grad modes are taken out of the copy. Answers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.infra import SET_GRAD, rolled_loop
from laser_fx.passes.rewrite_sites import Carried, Emitter, identifier, rewrite_sites
from laser_fx.passes.site_rewriter import Watching

__all__ = ["Sensitivity", "collect_gradients"]

aten = torch.ops.aten


class Sensitivity:
    """``Σ GᵀG`` of the gradient at one site's output Y: (F, F) float64. Stands in a graph as an operator.

    Args:
        outputs: F.
        device: of the output.
    """

    __name__ = "collect_gradients"

    def __init__(self, outputs: int, device: torch.device) -> None:
        self.total = torch.zeros(outputs, outputs, dtype=torch.float64, device=device)

    def __call__(self, y: Tensor) -> Tensor:
        """Watch an output (..., F) for its gradient, and hand it on."""
        if isinstance(y, FakeTensor):
            return y
        watched = y if y.requires_grad else y.detach().requires_grad_()
        watched.register_hook(self._add)
        return watched

    def _add(self, gradient: Tensor) -> None:
        flat = gradient.detach().reshape(-1, gradient.shape[-1]).float()
        self.total += flat.mT @ flat


def collect_gradients(
    rolled: fx.GraphModule, placed: Sequence[PlacedSite]
) -> tuple[fx.GraphModule, dict[str, Sensitivity]]:
    """A graph whose backward fills the sensitivities of its sites, by key; it has to run with gradients on."""
    found = {p.site.key: Sensitivity(p.site.outputs, p.node.meta["val"].device) for p in placed}
    graph_module = rewrite_sites(rolled, placed, _Collecting(found)).graph_module
    _attach(graph_module)
    return graph_module, found


def _attach(graph_module: fx.GraphModule) -> None:
    """Take out of a graph, and of the loops in it, what keeps gradients from passing."""
    for node in list(graph_module.graph.nodes):
        loop = rolled_loop(graph_module, node)
        if loop is not None:
            _attach(loop.body)
        elif node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)
        elif node.target is SET_GRAD:
            graph_module.graph.erase_node(node)
    graph_module.recompile()


class _Collecting(Watching):
    """See `collect_gradients`."""

    title = "Sensitive"
    records = False

    def __init__(self, found: Mapping[str, Sensitivity]) -> None:
        self.found = found

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, Carried, None]:
        name = identifier(site.name)
        result = emit.call(aten.linear.default, linear, f"linear_{name}")
        return emit.call(self.found[site.key], (result,), f"watched_{name}"), {}, None
