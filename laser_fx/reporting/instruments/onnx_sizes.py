"""How large the exported file is in each form."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laser_fx.errors import LaserError
from laser_fx.passes.infra import count_nodes
from laser_fx.program import Program
from laser_fx.reporting.instruments.progress import told
from laser_fx.reporting.measured import OnnxSize

__all__ = ["Export", "measure_onnx"]

Export = Callable[[Path, str], Any]
"""Writes a file in a form, unchecked; returns what has its ``bytes`` and ``nodes``."""

_FORMS = ("rolled", "functions", "step", "unrolled")
_LARGEST_UNROLLED = 5_000
"""Captured nodes beyond which writing a graph out takes minutes."""


def measure_onnx(program: Program, export: Export) -> tuple[OnnxSize, ...]:
    """Export to a folder that is removed afterwards, in every form; what is refused says why.

    Args:
        program: any program; only its captured graph's size is looked at.
        export: writes the inference program.
    """
    found = []
    with tempfile.TemporaryDirectory(prefix="laser_fx_") as folder:
        for number, form in enumerate(_FORMS):
            told("onnx", number, len(_FORMS))
            found.append(_size(program, export, Path(folder) / f"{form}.onnx", form))
    return tuple(found)


def _size(program: Program, export: Export, path: Path, form: str) -> OnnxSize:
    nodes = count_nodes(program.captured)
    if form == "unrolled" and nodes > _LARGEST_UNROLLED:
        return OnnxSize(form, refused=f"{nodes:,} nodes are more than the {_LARGEST_UNROLLED:,} that are written out")
    try:
        file = export(path, form)
    except LaserError as error:
        return OnnxSize(form, refused=error.what)
    return OnnxSize(form, file.bytes, file.nodes)
