"""What a training step keeps for the gradient of a site's weight: X as it is, or Z and Q in its place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite, find_sites
from laser_fx.program import Program

__all__ = ["KeptBytes", "bytes_at_sites", "kept_bytes"]

_BASIS = torch.float32
"""Of every basis; coefficients are kept as the activation would be."""


@dataclass(frozen=True)
class KeptBytes:
    """Of one step at one site.

    Args:
        exact: of X (N, D).
        low: of Z (N, k) and Q (D, k); of no basis, where the site has no rank.
    """

    exact: int
    low: int


def kept_bytes(site: Site, linear: fx.Node, autocast: torch.dtype | None) -> KeptBytes:
    """What one step keeps.

    Args:
        site: with the rank of its basis.
        linear: its node in an exact graph.
        autocast: the dtype that autocast computes in, None where it is off.
    """
    size = _dtype(linear, autocast).itemsize
    rank = site.rank or 0
    return KeptBytes(site.rows * site.features * size, rank * (site.rows * size + site.features * _BASIS.itemsize))


def bytes_at_sites(program: Program) -> dict[str, tuple[PlacedSite, KeptBytes]]:
    """Key of a site of a training program → where it stands in the exact graph, and what one step keeps there."""
    ranked = {site.key: site for site in program.sites}
    placed = find_sites(program.rolled, program.capture.states, with_gradients=True)
    autocast = program.mode.autocast
    return {p.site.key: (p, kept_bytes(ranked.get(p.site.key, p.site), p.node, autocast)) for p in placed}


def _dtype(linear: fx.Node, autocast: torch.dtype | None) -> torch.dtype:
    """What the linear reads."""
    activation = linear.all_input_nodes[0]
    given: torch.dtype = activation.meta["val"].dtype
    return given if autocast is None or given == torch.float64 else autocast
