"""Reads the parts of the ``step`` form: those that were exported with the main file, by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx

from laser_fx.errors import OnnxFileError
from laser_fx.export.data_file import sha256_of
from laser_fx.export.external_data import external_files
from laser_fx.export.graphs import tensors
from laser_fx.export.step_plan import WEIGHTS, Part, StepPlan

__all__ = ["beside", "check_digest", "check_weights"]


def beside(main: Path, part: Part) -> Path:
    """Where a part of a file lies.

    Raises:
        OnnxFileError: there is no plain file.
    """
    path = main.parent / part.file
    if path.is_symlink() or not path.is_file():
        raise OnnxFileError(
            f"the {part.role} of the file is missing: there is no plain file {part.file!r}",
            where=str(main),
            fix="copy the file together with all files that begin with its name, or export it again",
        )
    return path


def check_digest(part: Part, content: bytes, path: Path) -> None:
    """Refuse a part that is not the one that was exported with the main file.

    Raises:
        OnnxFileError: its bytes have another SHA-256.
    """
    _compare(part, hashlib.sha256(content).hexdigest(), path)


def check_weights(main: Path, plan: StepPlan, models: Sequence[onnx.ModelProto]) -> None:
    """Refuse external data that is not the part that holds the weights, and weights of another export.

    Raises:
        OnnxFileError: naming the file.
    """
    part = plan.part(WEIGHTS)
    for name in (name for model in models for name in external_files(tensors(model))):
        if part is None or name != part.file:
            raise OnnxFileError(
                f"external data is in {name[:100]!r}, which is no part of the file",
                where=str(main),
                fix="export it again",
            )
    if part is not None:
        path = beside(main, part)
        _compare(part, sha256_of(path), path)


def _compare(part: Part, found: str, path: Path) -> None:
    if found != part.sha256:
        raise OnnxFileError(
            f"the {part.role} of the file is not the one that was exported with it: its SHA-256 is another",
            where=str(path),
            fix="copy all files of one export together, or export it again",
        )
