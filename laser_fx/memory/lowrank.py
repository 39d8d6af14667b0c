"""Puts the inputs of linears into low rank: the LASER method on the values of a training graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from laser_fx.memory.bases import TrackedBasis
from laser_fx.memory.codecs import Codec, rank_within
from laser_fx.memory.fit import Part
from laser_fx.memory.joint import form_of
from laser_fx.memory.operators import size
from laser_fx.memory.sites import linear_inputs, only_products_read
from laser_fx.memory.tracked import Tracked

__all__ = ["Tracking", "trackable", "tracked_sites"]


@dataclass(frozen=True)
class Tracking:
    """How bases are tracked.

    Args:
        fidelity: no step uses a basis that measures below it.
        rank: columns of every basis; None adapts it.
        share: largest part of a value's bytes that coefficients and bases may take.
        by_position: whether each step of a call has a basis of its own.
        centre: whether the mean of the rows is taken off first, and fidelity measured on what is left.
        alarm: a call in which a larger share of steps needs a basis of its own is warned of.
    """

    fidelity: float = 0.999
    rank: int | None = None
    share: float = 1.0
    by_position: bool = False
    centre: bool = False
    alarm: float = 0.5

    def of(self, site: str, node: fx.Node, times: int, device: str, inner: Codec | None = None) -> Tracked | None:
        """The bases of one value that is kept so often in a call; None where they could save nothing."""
        form = form_of(node.meta["val"], False)
        count = times if self.by_position else 1
        steps = times // count
        most = min(rank_within(int(self.share * steps * size(node)), form, steps, inner), form.shape[-1] - 1)
        if most < 1:
            return None
        bases = [
            self._basis(f"{site}@{i}" if self.by_position else site, form.shape[-1], most, inner) for i in range(count)
        ]
        return Tracked(site, bases, times).to(device)

    def _basis(self, name: str, features: int, most: int, inner: Codec | None) -> TrackedBasis:
        rank = None if self.rank is None else min(self.rank, most)
        return TrackedBasis(
            name,
            features,
            fidelity=self.fidelity,
            rank=rank,
            most=most,
            centre=self.centre,
            inner=inner,
            alarm=self.alarm,
        )


def tracked_sites(part: Part, tracking: Tracking) -> dict[str, Tracked]:
    """Bases for every input of a linear that eager keeps for that linear's weight alone, by the name of the value.

    Where something else reads the value, low rank would keep it twice, or let its error into other gradients.
    """
    kept = {node.name: node for node in part.values.kept_by_eager if only_products_read(part.values, node)}
    return dict(_each(part, tracking, kept, None))


def trackable(part: Part, tracking: Tracking, inner: Codec | None) -> dict[str, Tracked]:
    """Bases for every input of a linear, whatever else reads it."""
    return dict(_each(part, tracking, {node.name: node for node in part.values.forward}, inner))


def _each(
    part: Part, tracking: Tracking, nodes: dict[str, fx.Node], inner: Codec | None
) -> Iterator[tuple[str, Tracked]]:
    for name, site in linear_inputs(part.values, part.segment.linears).items():
        if name in nodes and part.values.share(nodes[name]) == size(nodes[name]):
            device = str(nodes[name].meta["val"].device)
            made = tracking.of(site, nodes[name], part.segment.times, device, inner)
            if made is not None:
                yield name, made
