"""How much a computation magnifies rounding: the same one with its weights and inputs off by a few roundings.

No two implementations of a recursion agree better than it forgives rounding: an untrained one may turn 1e-6 on its
state into another answer within sixteen steps. What a nudge of all numbers does to the answers is measured, and a file
may differ from its program by twice of that. Where that is nearly everything, nothing can be compared in that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from laser_fx.export.graphs import tensors
from laser_fx.export.model_file import ModelFile
from laser_fx.export.source import Exportable

__all__ = ["CHAOS", "NOTHING_COMPARED", "Nudged", "nudged", "nudged_file"]

CHAOS = 0.1
"""A run that may differ by more than this part of the largest value says nothing about a file."""

ROUNDINGS = 8
"""Unit roundoffs by which each number is off, up or down: what a product of some hundred terms leaves."""

NOTHING_COMPARED = "nothing could be compared: rounding alone makes another answer in every run"

_SEED = 0
_LIMIT = 2**31 - 1
_LEAST_SIZE = 2  # sizes, axes and other single numbers of an operator are no weights


class Nudged:
    """A program whose floating weights are off by a few roundings; the rest of it is the program's own."""

    def __init__(self, program: Exportable) -> None:
        self._program = program
        weights = program.weights
        self.weights: Mapping[str, Tensor] = dict(zip(weights, nudged(tuple(weights.values())), strict=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)


def nudged(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tensors, each number of the floating ones a few roundings of its dtype larger or smaller.

    >>> before = torch.ones(1000)
    >>> (after,) = nudged((before,))
    >>> bool((after != before).all()), bool(((after - before).abs() < 1e-6).all())
    (True, True)
    """
    generator = torch.Generator().manual_seed(_SEED)
    return tuple(_nudged(value, generator) if value.is_floating_point() else value for value in values)


def nudged_file(file: ModelFile) -> ModelFile | None:
    """The file with its floating weights off by a few roundings; ``None`` where that is larger than 2 GB."""
    random = np.random.default_rng(_SEED)
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    for tensor in tensors(model):
        _nudge(tensor, file.path.parent, random)
    parts = {role: made for role, part in file.parts.items() if (made := nudged_file(part)) is not None}
    if model.ByteSize() > _LIMIT or len(parts) < len(file.parts):
        return None
    return replace(file, model=model, content=model.SerializeToString(), parts=parts)


def _nudged(value: Tensor, generator: torch.Generator) -> Tensor:
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value.device, torch.float64) * 2 - 1
    off = 1 + signs * ROUNDINGS * torch.finfo(value.dtype).eps / 2
    return (value.detach().double() * off).to(value.dtype)


def _nudge(tensor: onnx.TensorProto, folder: Path, random: np.random.Generator) -> None:
    array: npt.NDArray[Any] = numpy_helper.to_array(tensor, base_dir=str(folder))
    if not np.issubdtype(array.dtype, np.floating) or array.size < _LEAST_SIZE:
        return
    signs = random.integers(0, 2, array.shape) * 2 - 1
    off = (array.astype(np.float64) * (1 + signs * ROUNDINGS * np.finfo(array.dtype).eps / 2)).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(off, tensor.name))
