"""Refuses what a calibration could make nothing of: options that there are not, batches and answers that do not fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, get_args

from torch import Tensor

from laser_fx.calibration import Objective, check_schedule
from laser_fx.calibrator.examples import Example, tensors_of
from laser_fx.call import register_dataclasses
from laser_fx.errors import InputError, NonFiniteError, OptionError
from laser_fx.options import Sites
from laser_fx.program import Program

__all__ = ["check_answers", "check_asked", "check_batches", "check_left", "check_sizes"]

_KINDS = ("frozen", "per_step")


def check_asked(basis: object, objectives: Sequence[object], schedules: Iterable[object] | str, sites: object) -> None:
    """Refuse families of settings that there are not.

    Raises:
        OptionError: naming the argument.
    """
    if basis not in _KINDS:
        raise _bad("basis", basis, f"choose {' or '.join(map(repr, _KINDS))}")
    if sites not in get_args(Sites):
        raise _bad("sites", sites, f"choose {' or '.join(map(repr, get_args(Sites)))}")
    known = get_args(Objective)
    if isinstance(objectives, str) or not objectives or not set(objectives) <= set(known):
        raise _bad("objectives", objectives, f"choose one or more of {', '.join(map(repr, known))}, as a tuple")
    if isinstance(schedules, str) and schedules != "search":
        raise _bad("rank_schedules", schedules, "choose 'search', or for example [(0.5, 1.0, 'exact')]")
    for schedule in () if isinstance(schedules, str) else schedules:
        wrong = check_schedule(schedule)
        if wrong is not None:
            raise _bad("rank_schedules", schedule, f"{wrong}: choose for example [(0.5, 1.0, 'exact')]")


def check_batches(batches: Sequence[Example]) -> None:
    """Refuse batches that are not of one kind, or hold NaN, wherever they stand.

    Raises:
        InputError: other tensors than the first batch has; the leading dimension may differ.
        NonFiniteError: NaN. Infinities may be meant, as attention masks are.
    """
    for inputs, _ in batches:
        register_dataclasses(inputs)  # so that the tensors in them are seen
    first = _kinds(batches[0])
    for number, batch in enumerate(batches):
        where = f"calibrate(data), batch {number}"
        if _kinds(batch) != first:
            raise InputError(
                f"its tensors are {_told(_kinds(batch))}, those of the first batch {_told(first)}",
                where=where,
                fix="give batches of one dtype and shape, all but the leading dimension",
            )
        for tensor in tensors_of(batch[0]):
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise NonFiniteError("a tensor holds NaN", where=where, fix="leave such examples out: x.isnan()")


def check_sizes(program: Program, batches: Sequence[Example]) -> None:
    """Refuse batches of other sizes than the traced program holds for: one whose batch is fixed takes no other.

    Raises:
        InputError: naming the first such batch.
    """
    placeholders = {node.name: node for node in program.captured.graph.find_nodes(op="placeholder")}
    shapes = [placeholders[name].meta["val"].shape for name in program.user_inputs]
    for number, (inputs, _) in enumerate(batches):
        for tensor, shape in zip(tensors_of(inputs), shapes, strict=True):
            fixed = [int(str(size)) if str(size).isdecimal() else None for size in shape]
            if any(size not in (None, own) for own, size in zip(tensor.shape, fixed, strict=True)):
                raise InputError(
                    f"a tensor is {tuple(tensor.shape)}, the traced model takes {fixed[0]} in front and no other size",
                    where=f"calibrate(data), batch {number}",
                    fix="give batches of one size, or write the model for any: x.shape[0], not a number",
                )


def check_answers(answers: Tensor | None, predicted: Tensor, number: int) -> None:
    """Refuse predictions that are none, and answers that they cannot be compared with.

    Args:
        answers: the right ones, if they are wanted.
        predicted: what the exact model predicts, -1 where its logits are NaN.
        number: of the batch.

    Raises:
        InputError: answers of another shape.
        NonFiniteError: the exact model gives NaN.
    """
    where = f"batch {number}"
    if bool((predicted < 0).any()):
        raise NonFiniteError(
            "the logits of the exact model hold NaN",
            where=f"calibrate(data), {where}",
            fix="leave such examples out, or run the model in float32",
        )
    if answers is not None and (not isinstance(answers, Tensor) or answers.shape != predicted.shape):
        told = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise InputError(
            f"the answers are {told}, the model predicts {tuple(predicted.shape)} classes",
            where=f"calibrate(answers), {where}",
            fix="give the number of the right class for each prediction",
        )


def check_left(left: Collection[str], sites: Collection[str]) -> None:
    """Refuse to leave out what is no site.

    Raises:
        OptionError: naming the first such key.
    """
    unknown = [key for key in left if key not in sites]
    if unknown:
        raise _bad("exact_sites", unknown[0], f"choose among {', '.join(sites)}")


def _kinds(batch: Example) -> list[tuple[Any, ...]]:
    """Dtype and shape of each tensor; the leading dimension is the batch's own."""
    return [(tensor.dtype, tensor.ndim, tuple(tensor.shape[1:])) for tensor in tensors_of(batch[0])]


def _told(kinds: Sequence[tuple[Any, ...]]) -> str:
    names = (f"{str(dtype).removeprefix('torch.')}[{', '.join(['…', *map(str, rest)])}]" for dtype, _, rest in kinds)
    return ", ".join(names) or "none"


def _bad(name: str, value: object, fix: str) -> OptionError:
    return OptionError(f"{name} is {value!r}", where=f"calibrate({name})", fix=fix)
