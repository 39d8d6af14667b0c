"""Sums ``XᵀX`` of the activation at every site while a graph runs: what frozen bases are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.rewrite_sites import Carried, Emitter, identifier, rewrite_sites
from laser_fx.passes.site_rewriter import Watching

__all__ = ["Moments", "collect_moments"]


class Moments:
    """``Σ XᵀX`` of one site over all calls, step by step: (steps, D, D) float64. Stands in a graph as an operator.

    Args:
        steps: how often the site runs in one call.
        features: D.
        device: of the activation.
    """

    __name__ = "collect_moments"

    def __init__(self, steps: int, features: int, device: torch.device) -> None:
        self.by_step = torch.zeros(steps, features, features, dtype=torch.float64, device=device)
        self._seen = 0

    @property
    def total(self) -> Tensor:
        """Over all steps: (D, D) float64."""
        return self.by_step.sum(0)

    def __call__(self, x: Tensor) -> Tensor:
        """Add an activation (..., D), and hand it on."""
        if not isinstance(x, FakeTensor):
            flat = x.detach().reshape(-1, x.shape[-1]).float()
            self.by_step[self._seen % len(self.by_step)] += flat.mT @ flat
            self._seen += 1
        return x


def collect_moments(rolled: fx.GraphModule, placed: Sequence[PlacedSite]) -> tuple[fx.GraphModule, dict[str, Moments]]:
    """A graph that computes what ``rolled`` does and fills the moments of its sites, by key, whenever it runs."""
    found = {
        p.site.key: Moments(p.site.steps, p.site.features, p.node.all_input_nodes[0].meta["val"].device) for p in placed
    }
    return rewrite_sites(rolled, placed, _Collecting(found)).graph_module, found


class _Collecting(Watching):
    """See `collect_moments`."""

    title = "Collected"
    records = False

    def __init__(self, moments: Mapping[str, Moments]) -> None:
        self.moments = moments

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, Carried, None]:
        x, *rest = linear
        seen = emit.call(self.moments[site.key], (x,), f"seen_{identifier(site.name)}")
        return emit.call(torch.ops.aten.linear.default, (seen, *rest), f"linear_{identifier(site.name)}"), {}, None
