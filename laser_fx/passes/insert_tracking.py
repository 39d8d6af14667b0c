"""Puts `laser::track`, `laser::reset` and a linear that uses their basis at every site.

The basis of a site starts as zeros, which no step uses: its fidelity is 0, so the first step resets it. From then on
it is carried from step to step. The linear computes with the basis (``"forward"``), or exactly, saving ``Z = XQ`` for
backward instead of X (``"backward"``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx

import laser_fx.ops  # noqa: F401  registers the operators
from laser_fx.errors import PassError
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.infra import getitem
from laser_fx.passes.rewrite_sites import Emitter, RewrittenSites, identifier, rewrite_sites

__all__ = ["THRESHOLD", "insert_tracking"]

THRESHOLD = "fidelity"
"""The placeholder of the fidelity below which no step uses a basis: 0-d float32."""

Use = Literal["forward", "backward"]


def insert_tracking(rolled: fx.GraphModule, placed: Sequence[PlacedSite], use: Use) -> RewrittenSites:
    """Track a basis at every site.

    Args:
        rolled: an exact rolled graph.
        placed: its sites, each with a rank.
        use: what the basis serves: the value of the linear, or only its gradient.

    Returns:
        The graph with the placeholders ``fidelity`` and one ``sketch_<D>`` (D, k) for every width D. A record is the
        stats of `laser_fx.ops.reset`.
    """
    return rewrite_sites(rolled, placed, _Tracking(use))


class _Tracking:
    """See `insert_tracking`."""

    title = "Tracked"
    carries_basis = True
    records = True

    def __init__(self, use: Use) -> None:
        self.use = use

    def constants(self, placed: Sequence[PlacedSite]) -> Mapping[str, tuple[int, ...]]:
        """One sketch serves every site of its width: a site takes as many columns as its rank."""
        shapes: dict[str, tuple[int, ...]] = {THRESHOLD: ()}
        for site in (p.site for p in placed):
            name = _sketch_name(site)
            shapes[name] = (site.features, max(_rank(site), *shapes.get(name, (0,))[1:], 1))
        return shapes

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        whole = constants[_sketch_name(site)]
        columns = (whole, 1, 0, _rank(site))
        sketch = emit.call(torch.ops.aten.slice.Tensor, columns, f"sketch_{identifier(site.key)}")
        return sketch, constants[THRESHOLD]

    def stacked(self, site: Site) -> int:
        return 0

    def first_basis(self, emit: Emitter, site: Site) -> fx.Node:
        shape = ([site.features, _rank(site)],)
        device = next(n.meta["val"].device for n in emit.graph.nodes if n.name == THRESHOLD)
        return emit.call(torch.ops.aten.zeros.default, shape, f"basis_{identifier(site.key)}", device=device)

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: fx.Node | None, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, fx.Node, fx.Node]:
        x, weight, bias = (*linear, None)[:3]
        sketch, threshold = prepared
        name = identifier(site.name)
        seen = x if self.use == "forward" else emit.call(torch.ops.aten.detach.default, (x,), f"seen_{name}")
        tracked = emit.call(torch.ops.laser.track.default, (seen, basis, threshold), f"track_{name}")
        parts = [emit.call(getitem, (tracked, i), f"tracked_{part}_{name}") for i, part in enumerate(_TRACKED)]
        reset = emit.call(torch.ops.laser.reset.default, (seen, *parts, sketch, threshold), f"reset_{name}")
        following, z, stats = (emit.call(getitem, (reset, i), f"{part}_{name}") for i, part in enumerate(_RESET))
        operator = _LINEAR[self.use]
        return emit.call(operator, (x, weight, bias, following, z, stats), f"linear_{name}"), following, stats


_TRACKED = ("basis", "coefficients", "fidelity", "flag")
_RESET = ("next_basis", "coefficients", "stats")
_LINEAR = {
    "forward": torch.ops.laser.lowrank_linear.default,
    "backward": torch.ops.laser.linear.default,
}


def _sketch_name(site: Site) -> str:
    return f"sketch_{site.features}"


def _rank(site: Site) -> int:
    if site.rank is None:
        raise PassError("a site without a rank cannot be tracked", where=site.key, fix="choose its rank first")
    return site.rank
