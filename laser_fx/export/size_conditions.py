"""What a program asks of its open sizes: what was traced holds for those alone, and a file has to say so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir
from torch import Tensor

from laser_fx.errors import ExportError, OnnxFileError
from laser_fx.export.sizes import broken, is_condition, symbols_of
from laser_fx.export.source import Exportable

__all__ = ["check_conditions", "conditions_of", "fits"]

_SIZE = re.compile(r"L\['tensors'\]\[(\d+)\]\.size\(\)\[(\d+)\]")


def conditions_of(program: Exportable, inputs: Sequence[ir.Value]) -> tuple[str, ...]:
    """The guards of a program in the names that a file has for its open sizes.

    Args:
        program: what was traced.
        inputs: its inputs, in order.

    Raises:
        ExportError: a guard that says something else than how sizes compare.
    """
    shapes = [[size if isinstance(size, int) else str(size.value) for size in value.shape or ()] for value in inputs]
    names = symbols_of(shapes)
    found = []
    for guard in program.guards:
        told = _SIZE.sub(lambda place: _size(shapes[int(place[1])][int(place[2])]), guard)
        if not is_condition(told, names):
            raise ExportError(
                f"the program holds only where {guard}, which a file cannot say",
                where="Options.free_sizes",
                fix="leave the size out of free_sizes, or make the model's code the same at every size",
            )
        found.append(told)
    return tuple(dict.fromkeys(found))


def fits(program: Exportable, inputs: Sequence[Tensor]) -> bool:
    """Whether the program holds for inputs of these sizes."""
    told = (_SIZE.sub(lambda place: str(inputs[int(place[1])].shape[int(place[2])]), g) for g in program.guards)
    return broken(told, {}) is None


def check_conditions(conditions: Iterable[str], shapes: Iterable[Iterable[object]], where: str) -> None:
    """Refuse conditions that say nothing of a file's open sizes.

    Raises:
        OnnxFileError: naming the first one.
    """
    names = symbols_of(shapes)
    for condition in conditions:
        if not is_condition(condition, names):
            raise OnnxFileError(
                f"the file's metadata is damaged: {condition[:60]!r} is no condition on its sizes",
                where=where,
                fix="export it again",
            )


def _size(size: int | str) -> str:
    return str(size) if isinstance(size, int) or size.isidentifier() else f"({size})"
