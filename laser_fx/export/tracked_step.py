"""The step of a tracked program: bases are inputs of it, measured and never changed; another part refreshes them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from laser_fx.export.hold import hold_bases, keep_from
from laser_fx.export.opened import made_name
from laser_fx.export.split import Split
from laser_fx.export.step_plan import REFRESH, Bases

__all__ = ["HeldSplit", "with_held_bases"]

_KEEP_AT = "keep_at"


@dataclass(frozen=True)
class HeldSplit:
    """A split program whose step holds its bases.

    Args:
        split: its states are those that the step itself makes.
        refresh: a step that may change the bases, as a rolled file does; it has branches.
        bases: what is held.
    """

    split: Split
    refresh: ir.Graph
    bases: Bases


def with_held_bases(split: Split, threshold: float) -> HeldSplit:
    """Part a tracked step in the one that holds its bases and the one that refreshes them.

    Args:
        split: of a tracked program; its step is used up.
        threshold: the fidelity below which no basis is used, where a call asks for no other.
    """
    refresh = _refresh(split.step.clone())
    step, names = split.step, [made_name(value) for value in split.step.outputs]
    hold_bases(step)
    idle = {name for name, value in zip(names, step.outputs, strict=True) if value in step.inputs}
    for value in [value for value in step.outputs if value in step.inputs]:
        step.outputs.remove(value)
    held = tuple(state for state in split.states if state.following in idle)
    states = tuple(state for state in split.states if state not in held)
    bases = Bases(held, threshold, made_name(refresh.inputs[-1]))
    return HeldSplit(replace(split, step=step, states=states), refresh, bases)


def _refresh(graph: ir.Graph) -> ir.Graph:
    keep_at = ir.Value(name=f"{graph.name}/{_KEEP_AT}", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    keep_from(graph, keep_at)
    graph.inputs.append(keep_at)
    graph.name = REFRESH
    return graph
