"""The codecs that an approximate plan chooses from, for each value."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from laser_fx.memory.approximate import Menu
from laser_fx.memory.codecs import Codec
from laser_fx.memory.few_bits import Int4, Int8
from laser_fx.memory.fit import Part
from laser_fx.memory.lowrank import Tracking, trackable
from laser_fx.memory.policy import Everything
from laser_fx.memory.tracked import Tracked
from laser_fx.passes.calibrate import gradients
from laser_fx.program import Program

__all__ = ["menu_of"]

_PLAIN: dict[str, Codec] = {"int8": Int8(), "int4": Int4()}
_INSIDE: dict[str, Codec | None] = {"lowrank": None, "lowrank_int8": Int8()}
"""Low rank, and how its coefficients are stored."""


def menu_of(program: Program, planned: fx.GraphModule, parts: Sequence[Part], tracking: Tracking) -> Menu:
    """The codecs that the options allow. Low rank is on it where the example inputs have a basis that saves bytes."""
    plain = [_PLAIN[name] for name in program.options.codecs if name in _PLAIN]
    inside = [_INSIDE[name] for name in program.options.codecs if name in _INSIDE]
    lowrank = [_tracked(program, planned, parts, tracking, inner) for inner in inside]

    def menu(part: Part, node: fx.Node) -> Sequence[Codec]:
        return [*plain, *(found[key] for found in lowrank if (key := (id(part), node.name)) in found)]

    return menu


def _tracked(
    program: Program, planned: fx.GraphModule, parts: Sequence[Part], tracking: Tracking, inner: Codec | None
) -> dict[tuple[int, str], Tracked]:
    """The bases of one call, which keeps every input of a linear in low rank."""
    offered = [trackable(part, tracking, inner) for part in parts]
    for part, bases in zip(parts, offered, strict=True):
        part.follow(Everything(bases))
    gradients(program, planned)
    return {
        (id(part), name): tracked
        for part, bases in zip(parts, offered, strict=True)
        for name, tracked in bases.items()
        if not any(step.exact for step in tracked.steps)
    }
