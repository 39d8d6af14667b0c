"""Rows of arrays and of tensors, by their numbers: taken out, put back, laid side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Rows", "as_bools", "as_number", "copied", "joined", "put", "stacked", "take"]

Rows: TypeAlias = npt.NDArray[np.int64]
"""Numbers of rows."""


def take(value: Any, rows: Rows) -> Any:
    """Some rows of an array or a tensor, as a copy.

    >>> take(np.array([5, 6, 7]), np.array([2, 0])).tolist()
    [7, 5]
    """
    return value[_on(value, rows)]


def copied(value: Any) -> Any:
    """The same values in memory of their own."""
    return value.clone() if isinstance(value, Tensor) else value.copy()


def put(value: Any, rows: Rows, given: Any) -> None:
    """Write rows in place.

    >>> whole = np.zeros(3)
    >>> put(whole, np.array([2]), np.ones(1))
    >>> whole.tolist()
    [0.0, 0.0, 1.0]
    """
    value[_on(value, rows)] = given


def stacked(values: Sequence[Any]) -> Any:
    """Values of one shape with a new axis in front."""
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else np.stack(values)


def joined(values: Sequence[Any]) -> Any:
    """Rows of several values, one after the other."""
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else np.concatenate(values)


def as_bools(value: Any) -> npt.NDArray[np.bool_]:
    """Truth values on the host."""
    array: npt.NDArray[np.bool_] = value.cpu().numpy() if isinstance(value, Tensor) else value
    return array


def as_number(value: Any) -> float:
    """A 0-d array or tensor on the host."""
    return float(value)


def _on(value: Any, rows: Rows) -> Any:
    return torch.from_numpy(rows).to(value.device) if isinstance(value, Tensor) else rows
