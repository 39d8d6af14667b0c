"""Puts a `laser::spectrum` at every site: the graph also returns the singular values of each activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

import laser_fx.ops  # noqa: F401  registers the operators
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.rewrite_sites import Emitter, RewrittenSites, identifier, rewrite_sites

__all__ = ["insert_probes"]


def insert_probes(rolled: fx.GraphModule, placed: Sequence[PlacedSite]) -> RewrittenSites:
    """Measure the activation of every site.

    Returns:
        The graph, with the singular values (D,) float32 of each site's activation as its record.
    """
    return rewrite_sites(rolled, placed, _Probes())


class _Probes:
    """See `insert_probes`."""

    title = "Probed"
    carries_basis = False
    records = True

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        return {}

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        return ()

    def stacked(self, site: Site) -> int:
        return 0

    def first_basis(self, emit: Emitter, site: Site) -> fx.Node:
        raise NotImplementedError("probes carry no basis")

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: fx.Node | None, prepared: Sequence[fx.Node]
    ) -> tuple[None, None, fx.Node]:
        name = identifier(site.name)
        seen = emit.call(torch.ops.aten.detach.default, (linear[0],), f"seen_{name}")
        return None, None, emit.call(torch.ops.laser.spectrum.default, (seen,), f"spectrum_{name}")
