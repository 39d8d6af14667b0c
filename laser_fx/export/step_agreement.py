"""A step plan against the graphs of its parts: what one part reads, the caller gives or another part makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from laser_fx.errors import OnnxFileError
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.step_plan import EXACT, EXACT_START, FINISH, REFRESH, START, STEP, Signature, StepPlan

__all__ = ["check_parts"]

_NO_SIZE = "?"


def check_parts(metadata: FileMetadata, models: Mapping[str, onnx.ModelProto], where: str) -> None:
    """Refuse parts that do not fit together as the main file says.

    Args:
        metadata: that of the main file.
        models: the graphs by role, the main file's as ``"step"``.
        where: words for the error.

    Raises:
        OnnxFileError: naming the first value that does not fit.
    """
    assert metadata.step is not None
    for complaint in _complaints(metadata, metadata.step, models):
        raise OnnxFileError(
            f"the parts of the file do not fit together: {complaint}",
            where=where,
            fix="export it again: it was changed after it was written",
        )


def _complaints(metadata: FileMetadata, plan: StepPlan, models: Mapping[str, onnx.ModelProto]) -> Iterator[str]:
    optional = set() if metadata.halt is None else {metadata.halt.above}
    user, states = set(metadata.inputs) | optional, {state.name for state in plan.states}
    first = user | _outputs(models, START)
    bases = () if plan.bases is None else plan.bases.held
    held, asked = {state.name for state in bases}, {name for name in (metadata.fidelity,) if name is not None}
    rows = {value.name for value in plan.by_step} | ({plan.position} if plan.position else set())
    yield from _missing("the start", _inputs(models, START), user)
    begun = {state.first for state in (*plan.states, *bases)}
    yield from _missing("a step", begun | {v.rows for v in plan.by_step}, first)
    known = first | states | rows | held | asked
    yield from _missing("a step", _inputs(models, STEP), known)
    if plan.bases is not None:
        yield from _missing("the refresh", _inputs(models, REFRESH), known | {plan.bases.keep_at})
        again = _wanted(metadata, plan) | {state.following for state in bases}
        yield from _missing("the plan", again, _outputs(models, REFRESH))
    yield from _missing("the plan", rows, _inputs(models, STEP))  # a state may be there for the finish alone
    yield from _missing("the plan", _wanted(metadata, plan), _outputs(models, STEP))
    yield from _missing("the exact start", _inputs(models, EXACT_START), user)
    yield from _missing("the exact step", _inputs(models, EXACT), first | states | rows | _outputs(models, EXACT_START))
    if EXACT in models:
        again = _wanted(metadata, plan) - {value for _, value in metadata.records} - {plan.min_fidelity}
        yield from _missing("the plan", again, _outputs(models, EXACT))
    yield from _missing("the finish", _inputs(models, FINISH), first | states | {kept.name for kept in plan.kept})
    answers = first | _outputs(models, FINISH) | {kept.name for kept in plan.kept}
    yield from _missing("the caller", {value for _, value in metadata.outputs}, answers)
    for clash in sorted((states | rows | held) & _outputs(models, START)):
        yield f"{clash[:60]!r} is made by the start and changed by the steps"
    for role, model in models.items():
        yield from _signature(role, model, {entry.name: entry for entry in plan.signature})


def _wanted(metadata: FileMetadata, plan: StepPlan) -> set[str]:
    """What a step has to return."""
    wanted = {state.following for state in plan.states} | {kept.output for kept in plan.kept}
    wanted |= {value for _, value in metadata.records}
    return wanted | {value for value in (plan.min_fidelity, plan.halted) if value is not None}


def _missing(who: str, wanted: set[str], there: set[str]) -> Iterator[str]:
    for name in sorted(wanted - there):
        yield f"{who} wants {name[:60]!r}, which nothing makes"


def _inputs(models: Mapping[str, onnx.ModelProto], role: str) -> set[str]:
    return {value.name for value in models[role].graph.input} if role in models else set()


def _outputs(models: Mapping[str, onnx.ModelProto], role: str) -> set[str]:
    return {value.name for value in models[role].graph.output} if role in models else set()


def _signature(role: str, model: onnx.ModelProto, told: Mapping[str, Signature]) -> Iterator[str]:
    """An input of the caller's has one type and shape wherever it is read."""
    for value in model.graph.input:
        if value.name in told and _described(value) != (told[value.name].type, told[value.name].shape):
            yield f"{value.name[:60]!r} is {_described(value)} in the {role}, the metadata says otherwise"


def _described(value: onnx.ValueInfoProto) -> tuple[str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    sizes = (d.dim_value if d.HasField("dim_value") else d.dim_param or _NO_SIZE for d in tensor.shape.dim)
    return f"tensor({name.lower()})", tuple(sizes)
