"""A program as the parts of the ``step`` form: one outer step without a branch, what comes before it and what after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from laser_fx.errors import ExportError, OptionError
from laser_fx.export import functions
from laser_fx.export.bodies import call_bodies
from laser_fx.export.build import build
from laser_fx.export.counters import refuse_counted
from laser_fx.export.early_exit import Halting, free_name, halting_value
from laser_fx.export.exact_step import exact_graphs
from laser_fx.export.held_functions import held_functions
from laser_fx.export.metadata import PRODUCER, Depth, FileMetadata, Halt, package_version
from laser_fx.export.opened import stepped_loop
from laser_fx.export.solve import why_not_retire
from laser_fx.export.source import Exportable
from laser_fx.export.split import Split, split_at_loop, whole_as_step
from laser_fx.export.step_plan import EXACT, FINISH, REFRESH, START, STEP, Kept, Signature, StepPlan
from laser_fx.export.step_states import StatePairs, state_pairs
from laser_fx.export.tracked_step import HeldSplit, with_held_bases
from laser_fx.progress import stage

__all__ = ["BuiltStep", "build_step"]

_BRANCHES = ("Loop", "If", "Scan")


@dataclass(frozen=True)
class BuiltStep:
    """The parts in memory.

    Args:
        models: by role; ``"step"`` is the main file.
        metadata: what the main file says of the whole, its plan still without the names of files.
    """

    models: Mapping[str, ir.Model]
    metadata: FileMetadata


@stage("translating to ONNX")
def build_step(
    program: Exportable,
    *,
    depth_inputs: bool,
    opset: int,
    state: StatePairs | None = None,
    halt: Halting | None = None,
) -> BuiltStep:
    """Cut a program in parts.

    Args:
        program: an evaluation program.
        depth_inputs: whether the number of steps is the caller's.
        opset: version of the ONNX operators.
        state: for a model whose call is one step: output by input name of what is carried, or ``"auto"``.
        halt: what says which examples are done.

    Raises:
        ExportError: the program has no loop, or sites of several outermost ones are measured; something in a step
            branches; it is not known where the examples of a batch are that halt by themselves; or bases are tracked
            over them or begin anew.
        OptionError: states or a halting output that the program has not.
    """
    _refuse_tracked(program, state, halt)
    if halt is not None:
        refuse_counted(program)
    model, metadata = build(program, "rolled", depth_inputs=depth_inputs and state is None, opset=opset)
    signature = tuple(_signature(value) for value in model.graph.inputs if value.name in metadata.inputs)
    if state is None:
        loop = str(stepped_loop(model.graph).name)
        metadata = _with_depth_of(loop, model.graph, metadata)
        trips = next(int(entry["trips"]) for entry in metadata.loops if entry["name"] == loop)
        split, metadata = _cut(model, loop, metadata, halt)
    else:
        _refuse_halting(halt)
        records = tuple(value for _, value in metadata.records)
        split, trips = whole_as_step(model.graph, state_pairs(state, metadata, model.graph), records), 1
        if depth_inputs:
            metadata = replace(metadata, depths=(Depth(_free("depth", metadata.inputs), STEP, 1, 1),))
    held = None if metadata.fidelity is None else _held(split, model, program.options.fidelity, opset)
    split = split if held is None else held.split
    models = {role: _model(graph, model) for role, graph in _graphs(split).items()}
    plan = _plan(split, signature, trips)
    if held is not None:
        models[REFRESH], plan = _model(held.refresh, model, straight=False), plan.changed(bases=held.bases)
    _check_rows(plan, models, metadata)
    if plan.min_fidelity is not None and plan.bases is None and state is None:
        models |= _exact_parts(program, plan, loop, opset, halt)
    for role in {STEP, EXACT} & models.keys():
        _check_branch_free(models[role])
    return BuiltStep(models, replace(metadata, form=STEP, step=plan))


def _with_depth_of(loop: str, graph: ir.Graph, metadata: FileMetadata) -> FileMetadata:
    """Other loops run as they were traced, before this one or after it."""
    for depth in metadata.depths:
        if depth.loop != loop:
            graph.inputs.remove(next(value for value in graph.inputs if value.name == depth.input))
    return replace(metadata, depths=tuple(depth for depth in metadata.depths if depth.loop == loop))


def _cut(model: ir.Model, loop: str, metadata: FileMetadata, halt: Halting | None) -> tuple[Split, FileMetadata]:
    records = tuple(value for _, value in metadata.records)
    if halt is None:
        return split_at_loop(model.graph, loop, records), metadata
    done, above, least = halting_value(model.graph, metadata, halt)
    taken = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
    default = float(np.float32(halt.above))
    told = Halt(halt.output, halt.per, str(above.name), default, free_name("steps_taken", taken), least)
    by_rows = halt.per == "example"  # statistics are of a batch, which then shrinks
    metadata = replace(metadata, halt=told, records=() if by_rows else metadata.records)
    return split_at_loop(model.graph, loop, records, done, keep_records=not by_rows), metadata


def _plan(split: Split, signature: tuple[Signature, ...], trips: int) -> StepPlan:
    return StepPlan(
        parts=(),
        signature=signature,
        states=split.states,
        by_step=split.by_step,
        kept=split.kept,
        position=split.position,
        trips=trips,
        least=_least(split.kept, trips),
        batched=split.batched,
        unbatched=split.unbatched,
        min_fidelity=split.min_fidelity,
        halted=split.halted,
    )


def _exact_parts(
    program: Exportable, plan: StepPlan, loop: str, opset: int, halt: Halting | None
) -> dict[str, ir.Model]:
    made = exact_graphs(program, plan, opset, lambda model, metadata: _cut(model, loop, metadata, halt)[0])
    return {} if made is None else {role: _model(graph, made[1]) for role, graph in made[0].items()}


def _check_rows(plan: StepPlan, models: Mapping[str, ir.Model], metadata: FileMetadata) -> None:
    """Examples that halt by themselves leave the batch: all that a step reads has to be known by rows."""
    if metadata.halt is None or metadata.halt.per != "example":
        return
    read = {role: [str(value.name) for value in model.graph.inputs] for role, model in models.items()}
    unknown = why_not_retire(plan, read[STEP], read.get(FINISH, []), metadata.halt.above)
    if unknown is not None:
        raise ExportError(
            f"it is not known where in {unknown!r} the examples of a batch are, so that none can leave it",
            where="halt_per='example'",
            fix="choose halt_per='batch', or give the value the batch as its leading dimension",
        )


def _refuse_halting(halt: Halting | None) -> None:
    if halt is not None:
        raise OptionError(
            "a model whose call is one step gives its halting output at every step",
            where="halt",
            fix="leave it out, and leave OnnxModel.stream when you have seen enough",
        )


def _refuse_tracked(program: Exportable, state: StatePairs | None, halt: Halting | None) -> None:
    if not program.record_names or program.options.basis != "tracked":
        return
    if state is not None:
        raise ExportError(
            "bases that follow the loop begin anew in every call, and here a call is one step",
            where="form='step'",
            fix="compile with Options.exact() or basis='frozen', or a module that runs all steps",
        )
    if halt is not None and halt.per == "example":
        raise ExportError(
            "bases are tracked over the batch: what one example needs decides how others are computed",
            where="halt_per='example'",
            fix="choose halt_per='batch', or compile with Options.exact() or basis='frozen'",
        )


def _held(split: Split, whole: ir.Model, fidelity: float, opset: int) -> HeldSplit:
    """The split of a tracked program; its functions are added to the whole."""
    for function in (*functions.all_functions(opset), *held_functions(opset)):
        whole.functions.setdefault(function.identifier(), function)
    return with_held_bases(split, float(np.float32(fidelity)))


def _signature(value: ir.Value) -> Signature:
    assert value.shape is not None
    assert value.dtype is not None
    sizes = tuple(size if isinstance(size, int) else str(size.value or "?") for size in value.shape)
    return Signature(str(value.name), f"tensor({value.dtype.name.lower()})", sizes)


def _graphs(split: Split) -> dict[str, ir.Graph]:
    parts = {STEP: split.step, START: split.start, FINISH: split.finish}
    return {role: graph for role, graph in parts.items() if graph is not None}


def _model(graph: ir.Graph, whole: ir.Model, *, straight: bool = True) -> ir.Model:
    """A part as a model, with those functions of the whole that it calls; ``straight``: loops in it become calls."""
    model = ir.Model(
        graph,
        ir_version=whole.ir_version,
        producer_name=PRODUCER,
        producer_version=package_version(),
        functions=[function.clone() for function in whole.functions.values()],
    )
    if straight:
        call_bodies(model)
    passes: tuple[Any, ...] = (
        common.TopologicalSortPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
    )
    for step in passes:
        step(model)
    for unread in [value for value in graph.inputs if not value.uses() and value not in graph.outputs]:
        graph.inputs.remove(unread)
    return model


def _check_branch_free(model: ir.Model) -> None:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        for node in ir.traversal.RecursiveGraphIterator(graph):
            if node.op_type in _BRANCHES and node.domain == "":
                raise ExportError(
                    f"a step has no branches, but {node.name!r} is a {node.op_type}",
                    where="form='step'",
                    fix="choose form='rolled'",
                )


def _free(name: str, taken: tuple[str, ...]) -> str:
    return _free(f"laser.{name}", taken) if name in taken else name


def _least(kept: tuple[Kept, ...], trips: int) -> int:
    """Steps until every answer exists."""
    needed = [trips if k.index is None else k.index + 1 if k.index >= 0 else -k.index for k in kept]
    return max([1, *needed])
