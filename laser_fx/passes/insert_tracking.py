"""Puts `laser::track`, `laser::reset` and a linear that uses their basis at every site.

The basis of a site starts as zeros, which no step uses: its fidelity is 0, so the first step resets it. From then on
it is carried from step to step. The linear computes with the basis (``"forward"``), or exactly, saving ``Z = XQ`` for
backward instead of X (``"backward"``).

A forward site also carries the product of its basis with the weight, which `laser::fold` makes anew only where a step
changed the basis. A forward site whose objective is ``"output"`` is one `laser::output_linear`, named ``track_<site>``:
it carries V, ``A = WᵀV`` and the columns that estimate what both lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import fx

import laser_fx.ops  # noqa: F401  registers the operators
from laser_fx.errors import PassError
from laser_fx.folded_ops import PROBES
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.infra import getitem
from laser_fx.passes.rewrite_sites import Carried, Emitter, RewrittenSites, identifier, rewrite_sites

__all__ = ["THRESHOLD", "Use", "insert_tracking"]

THRESHOLD = "fidelity"
"""The placeholder of the fidelity below which no step uses a basis: 0-d float32."""

Use = Literal["forward", "backward"]


def insert_tracking(rolled: fx.GraphModule, placed: Sequence[PlacedSite], use: Use) -> RewrittenSites:
    """Track a basis at every site.

    Args:
        rolled: an exact rolled graph.
        placed: its sites, each with a rank, and in a forward graph with an objective.
        use: what the basis serves: the value of the linear, or only its gradient.

    Returns:
        The graph with the placeholders ``fidelity``, one ``sketch_<D>`` (D, k) for every width D of a basis, and where
        outputs are kept ``probes_<D>``, (D, 8). A record is the stats of `laser_fx.ops.reset`.
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
            name, width = f"sketch_{_width(site)}", _width(site)
            shapes[name] = (width, max(_rank(site), *shapes.get(name, (0,))[1:], 1))
            if _keeps_output(site):
                shapes |= {f"probes_{size}": (size, PROBES) for size in (site.outputs, site.features)}
        return shapes

    def prepare(self, emit: Emitter, site: Site, constants: Mapping[str, fx.Node]) -> tuple[fx.Node, ...]:
        """The sketch and the threshold, and for an output its probes."""
        columns = (constants[f"sketch_{_width(site)}"], 1, 0, _rank(site))
        sketch = emit.call(torch.ops.aten.slice.Tensor, columns, f"sketch_{identifier(site.key)}")
        probes = (constants[f"probes_{site.outputs}"],) if _keeps_output(site) else ()
        return sketch, constants[THRESHOLD], *probes

    def stacked(self, site: Site) -> int:
        return 0

    def first_basis(self, emit: Emitter, site: Site) -> Carried:
        if _keeps_output(site):
            basis = self._zeros(emit, site, "basis", site.outputs, _rank(site))
            down = self._zeros(emit, site, "down", site.features, _rank(site))
            # Columns that no X but zero is orthogonal to: a basis of zeros has fidelity 0.
            return {"basis": basis, "down": down, "error": _placeholder(emit, f"probes_{site.features}")}
        basis = self._zeros(emit, site, "basis", site.features, _rank(site))
        if self.use == "backward":
            return {"basis": basis}
        return {"basis": basis, "folded": self._zeros(emit, site, "folded", _rank(site), site.outputs)}

    @staticmethod
    def _zeros(emit: Emitter, site: Site, word: str, *shape: int) -> fx.Node:
        device = _placeholder(emit, THRESHOLD).meta["val"].device
        zeros = torch.ops.aten.zeros.default
        return emit.call(zeros, (list(shape),), f"{word}_{identifier(site.key)}", device=device)

    def write(
        self, emit: Emitter, site: Site, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
    ) -> tuple[fx.Node, Carried, fx.Node]:
        x, weight, bias = (*linear, None)[:3]
        name = identifier(site.name)
        if _keeps_output(site):
            return _output_step(emit, name, (x, weight, bias), basis, prepared)
        seen = x if self.use == "forward" else emit.call(torch.ops.aten.detach.default, (x,), f"seen_{name}")
        following, z, stats = _measured_step(emit, name, seen, basis["basis"], prepared)
        if self.use == "backward":
            value = emit.call(_laser.linear.default, (x, weight, bias, following, z, stats), f"linear_{name}")
            return value, {"basis": following}, stats
        folded = emit.call(_laser.fold.default, (weight, following, basis["folded"], stats), f"fold_{name}")
        value = emit.call(_laser.folded_linear.default, (x, weight, bias, folded, z, stats), f"linear_{name}")
        return value, {"basis": following, "folded": folded}, stats


_laser = torch.ops.laser
_TRACKED = ("basis", "coefficients", "fidelity", "flag")
_RESET = ("next_basis", "coefficients", "stats")
_OUTPUT = ("linear", "next_basis", "next_down", "next_error", "stats")


def _measured_step(
    emit: Emitter, name: str, x: fx.Node, basis: fx.Node, prepared: Sequence[fx.Node]
) -> tuple[fx.Node, ...]:
    """The next basis, its coefficients, and stats."""
    sketch, threshold = prepared
    tracked = emit.call(_laser.track.default, (x, basis, threshold), f"track_{name}")
    parts = _parts(emit, tracked, [f"tracked_{part}_{name}" for part in _TRACKED])
    reset = emit.call(_laser.reset.default, (x, *parts, sketch, threshold), f"reset_{name}")
    return _parts(emit, reset, [f"{part}_{name}" for part in _RESET])


def _output_step(
    emit: Emitter, name: str, linear: tuple[Any, ...], basis: Carried, prepared: Sequence[fx.Node]
) -> tuple[fx.Node, Carried, fx.Node]:
    sketch, threshold, probes = prepared
    arguments = (*linear, *basis.values(), sketch, probes, threshold)
    step = emit.call(_laser.output_linear.default, arguments, f"track_{name}")
    value, *following, stats = _parts(emit, step, [f"{part}_{name}" for part in _OUTPUT])
    return value, dict(zip(basis, following, strict=True)), stats


def _parts(emit: Emitter, node: fx.Node, names: Sequence[str]) -> tuple[fx.Node, ...]:
    return tuple(emit.call(getitem, (node, index), name) for index, name in enumerate(names))


def _placeholder(emit: Emitter, name: str) -> fx.Node:
    holders: list[fx.Node] = emit.graph.find_nodes(op="placeholder")
    return next(node for node in holders if node.name == name)


def _keeps_output(site: Site) -> bool:
    return site.objective == "output"


def _width(site: Site) -> int:
    """Of the vectors that the basis is made of."""
    return site.outputs if _keeps_output(site) else site.features


def _rank(site: Site) -> int:
    if site.rank is None:
        raise PassError("a site without a rank cannot be tracked", where=site.key, fix="choose its rank first")
    return site.rank
