"""The examples of a calibration: searched ones, ones to select by, and ones that are held out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from laser_fx.errors import InputError, OptionError
from laser_fx.intervals import paired_lower

__all__ = ["Example", "Splits", "Target", "batches_of", "check_examples", "tensors_of"]

Target = Literal["agreement", "accuracy"]
Example = tuple[tuple[Any, ...], Tensor | None]
"""Positional inputs of one call, and the right answers."""


@dataclass(frozen=True)
class Splits:
    """Three parts of the batches, in order.

    Args:
        searched: bases are made of them, and settings are compared on them.
        selected: a setting has to show on them that it loses no more than it may.
        held_out: what is reported was measured on them, once.
    """

    searched: Sequence[Example]
    selected: Sequence[Example]
    held_out: Sequence[Example]

    @classmethod
    def of(cls, batches: Sequence[Example]) -> Splits:
        """A third each; what is left over is searched.

        >>> [len(part) for part in vars(Splits.of([()] * 8)).values()]
        [4, 2, 2]
        """
        third = len(batches) // 3
        first = len(batches) - 2 * third
        return cls(batches[:first], batches[first : first + third], batches[first + third :])


def batches_of(
    data: Iterable[Any], answers: Iterable[Tensor] | None, target: Target, tolerance: float
) -> list[Example]:
    """The batches with their answers.

    Raises:
        InputError: fewer than three batches, or answers that are missing.
        OptionError: an unknown target, or a tolerance that nothing could show.
    """
    if target not in ("agreement", "accuracy"):
        raise OptionError(f"target is {target!r}", where="calibrate(target)", fix="choose 'agreement' or 'accuracy'")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0.0 < tolerance < 1.0:
        raise OptionError(
            f"tolerance is {tolerance!r}",
            where="calibrate(tolerance)",
            fix="choose a number in (0, 1): that nothing at all is lost, no number of examples shows",
        )
    inputs = [tuple(entry) if isinstance(entry, (tuple, list)) else (entry,) for entry in data]
    if len(inputs) < 3:
        raise InputError(
            f"there are {len(inputs)} batches",
            where="calibrate(data)",
            fix="give three or more: a third is searched, a third selects, a third is held out",
        )
    if target == "accuracy" and answers is None:
        raise InputError("there are no answers", where="calibrate(answers)", fix="give one tensor for each batch")
    right = list(answers) if answers is not None else [None] * len(inputs)
    if len(right) != len(inputs):
        raise InputError(
            f"there are {len(inputs)} batches and {len(right)} answers", where="calibrate(answers)", fix="give as many"
        )
    return list(zip(inputs, right, strict=True))


def check_examples(selected: int, wanted: Sequence[Tensor], tolerance: float) -> None:
    """Refuse examples that could show nothing.

    Args:
        selected: how many examples select.
        wanted: what should be predicted, batch by batch.
        tolerance: what may be lost.

    Raises:
        InputError: too few examples, or all predictions of one class.
    """
    if paired_lower(lost=0, gained=0, count=selected) < -tolerance:
        needed = selected
        while paired_lower(lost=0, gained=0, count=needed) < -tolerance:
            needed = math.ceil(1.01 * needed) + 1
        raise InputError(
            f"{selected} examples select, and even if none of them were lost they could not show a loss of at most "
            f"{tolerance:g}",
            where="calibrate(data)",
            fix=f"give at least {3 * needed} examples in three batches or more, or a larger tolerance",
        )
    classes = torch.unique(torch.cat([answer.reshape(-1) for answer in wanted]))
    if len(classes) < 2:
        raise InputError(
            f"all predictions are of one class, {classes.tolist()}: any basis would keep them",
            where="calibrate(data)",
            fix="give examples of every class, and return the logits as the first floating output",
        )


def tensors_of(inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tensors in the inputs of one call."""
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
