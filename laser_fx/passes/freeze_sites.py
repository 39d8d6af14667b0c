"""Puts a fixed basis at sites: every step computes through it; nothing is refreshed.

With the objective ``"activation"`` a site keeps X: ``Y ≈ (XQ)(WQ)ᵀ``, Q (D, k). With ``"output"`` it keeps ``Y = XWᵀ``:
``Y ≈ (X(WᵀV))Vᵀ``, V (F, k), which needs no basis of X; ``"answer"`` is the same with two bases. Either way the factor
that depends on the weight is made of the weight at hand, once a call and outside of all loops: a model that is trained
on is not run with stale factors. A step may also measure what it keeps, see `laser_fx.passes.measure_frozen`: that
changes no answer.

A basis may also be one for each step of the loops around its site: a tensor with the trips of all loops in front,
outermost first. All factors are made at the top then too, and each loop takes its step's part of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from laser_fx.calibration import SiteBasis
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.measure_frozen import PROBES, rank_tail, record
from laser_fx.passes.rewrite_sites import Carried, Emitter, RewrittenSites, identifier, rewrite_sites

__all__ = ["basis_name", "dual_name", "freeze_sites", "probes_name"]

aten = torch.ops.aten


def freeze_sites(
    rolled: fx.GraphModule,
    placed: Sequence[PlacedSite],
    bases: Mapping[str, SiteBasis],
    weights: Mapping[str, str],
    *,
    measure: bool = True,
) -> RewrittenSites:
    """Compute every site through its basis.

    Args:
        rolled: an exact rolled graph.
        placed: its sites, each with a basis.
        bases: site → its basis; one for each step has the trips of the loops around the site in front.
        weights: name of a weight in the model → its placeholder.
        measure: whether each step also measures its fidelity.

    Returns:
        The graph, with one more placeholder for each basis, named ``basis_<site>``, and where an output is measured one
        for its probes, ``probes_<site>``. A record is one row of `laser_fx.ops.reset`'s stats: fidelity, rank, 0, 0, 0.
    """
    return rewrite_sites(rolled, placed, _Frozen(placed, bases, weights, measure))


class _Frozen:
    """See `freeze_sites`."""

    title = "Frozen"
    carries_basis = False

    def __init__(
        self, placed: Sequence[PlacedSite], bases: Mapping[str, SiteBasis], weights: Mapping[str, str], measure: bool
    ) -> None:
        self.bases, self.weights, self.records = bases, weights, measure
        self.dtypes = {p.site.key: p.node.all_input_nodes[0].meta["val"].dtype for p in placed}

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for site in (p.site for p in placed):
            shapes[basis_name(site)] = tuple(self.bases[site.key].basis.shape)
            if self.bases[site.key].dual is not None:
                shapes[dual_name(site)] = shapes[basis_name(site)]
            if self._is_probed(site):
                shapes[probes_name(site)] = (*shapes[basis_name(site)][:-2], PROBES, site.outputs)
        return shapes

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        """The matrices of two linears, ``down`` (k, D) and ``up`` (F, k); then what measuring needs."""
        name, dtype = identifier(site.key), self.dtypes[site.key]
        weight = self._wide(emit, next(n for n in emit.graph.nodes if n.name == self.weights[site.weight]), name)
        basis = _cast(emit, constants[basis_name(site)], weight.meta["val"].dtype, f"wide_{name}")
        turned = emit.call(aten.transpose.int, (basis, -2, -1), f"turned_{name}")
        down, up = turned, constants.get(dual_name(site), basis)
        if self.bases[site.key].objective == "activation":
            up = emit.call(aten.matmul.default, (weight, basis), f"up_{name}")
        else:
            down = emit.call(aten.matmul.default, (turned, weight), f"down_{name}")
        factors = [_cast(emit, down, dtype, f"cast_down_{name}"), _cast(emit, up, dtype, f"cast_up_{name}")]
        if self._is_probed(site):
            probes = _cast(emit, constants[probes_name(site)], weight.meta["val"].dtype, f"wide_probes_{name}")
            lost = emit.call(aten.matmul.default, (probes, weight), f"lost_{name}")
            factors.append(_cast(emit, lost, dtype, f"cast_lost_{name}"))
        if self.records:
            rank = self.bases[site.key].rank
            factors.append(rank_tail(emit, rank, constants[basis_name(site)].meta["val"].device, name))
        return tuple(factors)

    def stacked(self, site: Site) -> int:
        factors = 3 if self._is_probed(site) else 2
        return factors if self.bases[site.key].is_per_step else 0

    def first_basis(self, emit: Emitter, site: Site) -> Carried:
        raise NotImplementedError("a frozen basis is not carried")

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, Carried, fx.Node | None]:
        x, _, bias = (*linear, None)[:3]
        name = identifier(site.name)
        down, up, *measuring = prepared
        narrow = emit.call(aten.linear.default, (x, down), f"narrow_{name}")
        result = emit.call(aten.linear.default, (narrow, up, bias), f"linear_{name}")
        if not self.records:
            return result, {}, None
        lost = measuring[0] if self._is_probed(site) else None
        objective = self.bases[site.key].objective
        return result, {}, record(emit, objective, x, narrow, lost, measuring[-1], name)

    def _is_probed(self, site: Site) -> bool:
        return self.records and self.bases[site.key].objective != "activation"

    @staticmethod
    def _wide(emit: Emitter, weight: fx.Node, name: str) -> fx.Node:
        """The weight, in no fewer bits than its basis: factors are rounded once, at the end."""
        dtype = torch.promote_types(weight.meta["val"].dtype, torch.float32)
        return _cast(emit, weight, dtype, f"wide_weight_{name}")


def _cast(emit: Emitter, value: fx.Node, dtype: torch.dtype, name: str) -> fx.Node:
    return value if value.meta["val"].dtype == dtype else emit.call(aten.to.dtype, (value, dtype), name)


def basis_name(site: Site) -> str:
    """The placeholder of a site's basis."""
    return f"basis_{identifier(site.key)}"


def dual_name(site: Site) -> str:
    """The placeholder of the second basis of a site, where it has one."""
    return f"dual_{identifier(site.key)}"


def probes_name(site: Site) -> str:
    """The placeholder of the probes of a site's output."""
    return f"probes_{identifier(site.key)}"
