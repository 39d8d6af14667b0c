"""The ways in which a file can be run on the CPU to be checked: as it is, and with float32 for its other dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laser_fx.errors import OnnxFileError
from laser_fx.export.in_float32 import file_in_float32, floating_dtypes
from laser_fx.export.model_file import ModelFile
from laser_fx.export.providers import CPU
from laser_fx.export.session import NoKernelError, open_file
from laser_fx.export.tolerances import Tolerance, tolerance_in_float32, tolerance_of

__all__ = ["LEVELS", "View", "views_of"]

LEVELS = ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")
_HALVES = {"float16", "bfloat16"}


@dataclass(frozen=True)
class View:
    """One way to run a file.

    Args:
        sessions: on the CPU, by optimisation level.
        tolerance: what rounding excuses.
        in_float32: whether float32 stands for its other floating dtypes.
        halves: whether it computes in 16 bits.
    """

    sessions: Mapping[str, Any]
    tolerance: Tolerance
    in_float32: bool = False
    halves: bool = False


def views_of(file: ModelFile) -> tuple[tuple[View, ...], str | None]:
    """Each way in which a file can be run, and why it cannot be run as it is, if it cannot.

    A file in 16 bits is run in float32 as well: what is wrong with it shows there, where rounding hides nothing.

    Raises:
        OnnxFileError: ONNX Runtime refuses the file, or has no kernel for it in any dtype.
    """
    dtypes = floating_dtypes(file.model)
    views: list[View] = []
    missing: OnnxFileError | None = None
    try:
        sessions = _sessions(file)
        views.append(View(sessions, tolerance_of(dtypes), halves=bool(dtypes & _HALVES)))
    except NoKernelError as error:
        missing = error
    twin = file_in_float32(file) if missing is not None or dtypes & _HALVES else None
    if twin is not None:
        views.append(View(_sessions(twin), tolerance_in_float32(dtypes), in_float32=True))
    elif missing is not None:
        raise missing
    return tuple(views), None if missing is None else missing.what


def _sessions(file: ModelFile) -> dict[str, Any]:
    sessions = {level: open_file(file, providers=[CPU], level=level).session for level in LEVELS}
    session = sessions[LEVELS[0]]
    for value in (*session.get_inputs(), *session.get_outputs()):
        if value.type == "tensor(bfloat16)":
            raise NoKernelError(f"{value.name!r} is bfloat16, which numpy has not", where=str(file.path))
    return sessions
