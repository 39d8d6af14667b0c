"""Puts a fixed basis at sites: every step computes through it, and nothing is measured or refreshed.

With the objective ``"activation"`` a site keeps X: ``Y ≈ (XQ)(WQ)ᵀ``, Q (D, k). With ``"output"`` it keeps ``Y = XWᵀ``:
``Y ≈ (X(WᵀV))Vᵀ``, V (F, k), which needs no basis of X. Either way the factor that depends on the weight is made of the
weight at hand, once a call and outside of all loops: a model that is trained on is not run with stale factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from laser_fx.calibration import SiteBasis
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.rewrite_sites import Emitter, RewrittenSites, identifier, rewrite_sites

__all__ = ["freeze_sites"]

aten = torch.ops.aten


def freeze_sites(
    rolled: fx.GraphModule, placed: Sequence[PlacedSite], bases: Mapping[str, SiteBasis], weights: Mapping[str, str]
) -> RewrittenSites:
    """Compute every site through its basis.

    Args:
        rolled: an exact rolled graph.
        placed: its sites, each with a basis.
        bases: site → its basis.
        weights: name of a weight in the model → its placeholder.

    Returns:
        The graph, with one more placeholder for each basis, named ``basis_<site>``; there are no records.
    """
    return rewrite_sites(rolled, placed, _Frozen(bases, weights))


class _Frozen:
    """See `freeze_sites`."""

    title = "Frozen"
    carries_basis = False
    records = False

    def __init__(self, bases: Mapping[str, SiteBasis], weights: Mapping[str, str]) -> None:
        self.bases, self.weights = bases, weights

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        return {basis_name(p.site): tuple(self.bases[p.site.key].basis.shape) for p in placed}

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        """The matrices of two linears: ``down`` (k, D) and ``up`` (F, k)."""
        name, basis = identifier(site.key), constants[basis_name(site)]
        weight = next(node for node in emit.graph.nodes if node.name == self.weights[site.weight])
        turned = emit.call(aten.t.default, (basis,), f"turned_{name}")
        if self.bases[site.key].objective == "activation":
            return turned, emit.call(aten.mm.default, (weight, basis), f"up_{name}")
        return emit.call(aten.mm.default, (turned, weight), f"down_{name}"), basis

    def first_basis(self, emit: Emitter, site: Site) -> fx.Node:
        raise NotImplementedError("a frozen basis is not carried")

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: fx.Node | None, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, None, None]:
        x, _, bias = (*linear, None)[:3]
        name = identifier(site.name)
        down, up = (self._as(emit, factor, x, name) for factor in prepared)
        narrow = emit.call(aten.linear.default, (x, down), f"narrow_{name}")
        return emit.call(aten.linear.default, (narrow, up, bias), f"linear_{name}"), None, None

    @staticmethod
    def _as(emit: Emitter, factor: fx.Node, x: fx.Node, name: str) -> fx.Node:
        """A factor in the dtype that the site computes in."""
        dtype = x.meta["val"].dtype
        if factor.meta["val"].dtype == dtype:
            return factor
        return emit.call(aten.to.dtype, (factor, dtype), f"cast_{name}")


def basis_name(site: Site) -> str:
    """The placeholder of a site's basis."""
    return f"basis_{identifier(site.key)}"
