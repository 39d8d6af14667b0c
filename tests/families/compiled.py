"""Each family compiled once for inference and once for training, shared by the tests."""

from __future__ import annotations

import functools

import torch

from laser_fx.compiler import CompiledModel
from laser_fx.loops import LoopNest
from tests.families.expected import Figures, Nest
from tests.families.registry import FAMILIES
from tests.small import exact

EXAMPLE_ROWS = 3


@functools.cache
def compiled(name: str, training: bool) -> CompiledModel:
    """The family's model in that mode, compiled without changing a number."""
    torch.manual_seed(0)
    family = FAMILIES[name]
    with torch.set_grad_enabled(training):
        return exact(family.model().train(training), *family.inputs(EXAMPLE_ROWS))


def figures(found: LoopNest) -> Nest:
    """What was found, as `expected` says it."""
    return tuple(
        Figures(level, trips, len(loop.carry), len(loop.invariants), len(loop.per_step), len(loop.step_outputs))
        for (level, trips), loop in zip(found.trips(), found.walk(), strict=True)
    )
