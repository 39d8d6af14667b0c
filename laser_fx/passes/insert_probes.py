"""Puts a `laser::spectrum` at every site: the graph also returns the singular values of activations or outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import fx

import laser_fx.ops  # noqa: F401  registers the operators
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.rewrite_sites import Carried, Emitter, RewrittenSites, identifier, rewrite_sites
from laser_fx.passes.site_rewriter import Watching

__all__ = ["insert_probes"]


def insert_probes(
    rolled: fx.GraphModule, placed: Sequence[PlacedSite], of: Literal["activation", "output"] = "activation"
) -> RewrittenSites:
    """Measure every site.

    Args:
        rolled: an exact rolled graph.
        placed: its sites.
        of: what is measured: X, or ``XWᵀ`` without a bias.

    Returns:
        The graph, with the singular values (D,) or (F,) float32 of each site's activation or output as its record.
    """
    return rewrite_sites(rolled, placed, _Probes(of))


class _Probes(Watching):
    """See `insert_probes`."""

    title = "Probed"
    records = True

    def __init__(self, of: str) -> None:
        self.of = of

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[None, Carried, fx.Node]:
        name = identifier(site.name)
        x, weight, *_ = linear
        probed = (
            x if self.of == "activation" else emit.call(torch.ops.aten.linear.default, (x, weight), f"seen_y_{name}")
        )
        seen = emit.call(torch.ops.aten.detach.default, (probed,), f"seen_{name}")
        return None, {}, emit.call(torch.ops.laser.spectrum.default, (seen,), f"spectrum_{name}")
