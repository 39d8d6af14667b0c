"""The step without bases: what the host runs again where a step's fidelity fell below what was asked for."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import onnx_ir as ir
from torch import fx

from laser_fx.errors import ExportError
from laser_fx.export.build import build
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.source import Exportable
from laser_fx.export.split import Split
from laser_fx.export.step_plan import EXACT, EXACT_START, StepPlan
from laser_fx.loops import Loop, LoopNest
from laser_fx.passes.split_loops import split_loops

__all__ = ["exact_graphs"]

_PREFIX = "exact/"
Cut = Callable[[ir.Model, FileMetadata], Split]


@runtime_checkable
class _WithRolled(Protocol):
    rolled: fx.GraphModule
    nest: LoopNest
    unsplit: LoopNest | None


def exact_graphs(
    program: Exportable, plan: StepPlan, opset: int, cut: Cut
) -> tuple[dict[str, ir.Graph], ir.Model] | None:
    """The exact step and what it reads of the caller's inputs, under the names of the other step.

    Args:
        program: its ``rolled`` is the program without bases; ``None`` is given where it has none.
        plan: that of the step with bases.
        opset: version of the ONNX operators.
        cut: splits the model of the exact program as that of the other one was split.

    Returns:
        Graphs by role, and the model that has their functions.

    Raises:
        ExportError: the two steps do not carry the same.
    """
    if not isinstance(program, _WithRolled):
        return None
    exact: Any = dataclasses.replace(program, graph_module=_rolled(program), record_names=())  # type: ignore[type-var]
    model, metadata = build(exact, "rolled", depth_inputs=False, opset=opset)
    split = cut(model, metadata)
    known = {str(value.name) for value in model.graph.inputs} | _paired(split, plan)
    graphs = {EXACT: split.step}
    for graph in (split.step, *([] if split.start is None else [split.start])):
        _prefix(graph, known)
    _rename(split, plan)
    if split.start is not None and (outputs := _read_by(split.step, split.start)):
        graphs[EXACT_START] = _only(split.start, outputs)
    return graphs, model


def _rolled(program: _WithRolled) -> fx.GraphModule:
    """The program without bases, its loops in the pieces in which a schedule of ranks has them."""
    if program.unsplit is None:
        return program.rolled
    starts = {loop.name: _starts(loop, program.nest) for loop in program.unsplit.loops}
    return split_loops(program.rolled, program.unsplit, starts).graph_module


def _starts(loop: Loop, nest: LoopNest) -> tuple[int, ...]:
    """First steps of the pieces of a loop, which follow one another."""
    pieces = [p.trip_count for p in nest.loops if p.name == loop.name or p.name.startswith(f"{loop.name}_from_")]
    return tuple(itertools.accumulate(pieces[:-1], initial=0))


def _pairs(split: Split, plan: StepPlan) -> list[tuple[str, str]]:
    """Names of the exact step and of the other one, for what both carry, read by step, and give."""
    same = len(split.states) == len(plan.states) and len(split.kept) == len(plan.kept)
    # Bases by step come after the values that differ by step without them, and may be all that counts steps.
    if not same or len(split.by_step) > len(plan.by_step) or split.position not in (None, plan.position):
        raise ExportError(
            "the step without bases does not carry what the step with them carries",
            where="form='step'",
            fix="choose form='rolled', or report this model as a defect",
        )
    pairs = [(a.name, b.name) for a, b in zip(split.states, plan.states, strict=True)]
    pairs += [(a.name, b.name) for a, b in zip(split.by_step, plan.by_step, strict=False)]
    pairs += [(a.following, b.following) for a, b in zip(split.states, plan.states, strict=True)]
    pairs += [(a.output, b.output) for a, b in zip(split.kept, plan.kept, strict=True)]
    return pairs + ([] if split.halted is None or plan.halted is None else [(split.halted, plan.halted)])


def _paired(split: Split, plan: StepPlan) -> set[str]:
    return {ours for ours, _ in _pairs(split, plan)}


def _prefix(graph: ir.Graph, known: set[str]) -> None:
    """Names of its own for all that the other step does not know."""
    values = {*graph.inputs, *(output for node in graph for output in node.outputs)}
    for value in values:
        if value.name not in known:
            value.name = f"{_PREFIX}{value.name}"


def _rename(split: Split, plan: StepPlan) -> None:
    names = dict(_pairs(split, plan))
    for value in (*split.step.inputs, *split.step.outputs):
        value.name = names.get(str(value.name), value.name)


def _read_by(step: ir.Graph, start: ir.Graph) -> list[ir.Value]:
    wanted = {value.name for value in step.inputs}
    return [value for value in start.outputs if value.name in wanted]


def _only(start: ir.Graph, outputs: list[ir.Value]) -> ir.Graph:
    part = ir.convenience.extract(start, list(start.inputs), outputs)
    part.name = EXACT_START
    return part
