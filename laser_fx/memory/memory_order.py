"""The numbers of a tensor in the order in which they lie in memory, whatever its strides.

A codec works on runs of numbers; what it makes of them again has the strides that the value had.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from laser_fx.memory.joint import Form

__all__ = ["Target", "count", "flattened", "placed"]


def count(form: Form) -> int:
    """Numbers that a value of this form has in memory: those of an expanded dimension are one.

    >>> from laser_fx.memory.joint import form_of
    >>> count(form_of(torch.ones(3, 1).expand(3, 4), False))
    3
    """
    dims = zip(form.shape, form.stride, strict=True)
    return math.prod(1 if _is_expanded(size, stride) else size for size, stride in dims)


def _is_expanded(size: int, stride: int) -> bool:
    return stride == 0 and size > 1


def flattened(value: Tensor) -> Tensor:
    """The numbers of a value in the order of its memory, without its history, and a copy only where they have gaps.

    >>> flattened(torch.arange(6).view(2, 3).t()).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    return _in_memory_order(value.detach()).reshape(-1)


def _in_memory_order(value: Tensor) -> Tensor:
    """A view with the dimensions by descending stride, each expanded one at size 1."""
    for dim, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if _is_expanded(size, stride):
            value = value.narrow(dim, 0, 1)
    strides = value.stride()
    return value.permute(sorted(range(value.ndim), key=lambda dim: -strides[dim]))


class Target:
    """A new value of a form, written through `flat` in the order of its memory.

    >>> from laser_fx.memory.joint import form_of
    >>> target = Target(form_of(torch.empty(3, 2).t(), False))
    >>> _ = target.flat.copy_(torch.arange(6))
    >>> target.finished().tolist()
    [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    """

    def __init__(self, form: Form) -> None:
        self._value = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
        self._ordered = _in_memory_order(self._value)
        self._is_dense = self._ordered.is_contiguous()
        self.flat = self._ordered.view(-1) if self._is_dense else self._ordered.new_empty(self._ordered.numel())

    def finished(self) -> Tensor:
        """The value, once `flat` is written."""
        if not self._is_dense:
            self._ordered.copy_(self.flat.view(self._ordered.shape))
        return self._value


def placed(value: Tensor, form: Form) -> Tensor:
    """A value in the strides and the dtype of a form.

    >>> from laser_fx.memory.joint import form_of
    >>> placed(torch.ones(2, 3), form_of(torch.empty(3, 2).t(), False)).stride()
    (1, 2)
    """
    value = value.to(form.dtype)
    if value.stride() == form.stride:
        return value
    made = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
    source, target = value, made
    for dim, (size, stride) in enumerate(zip(form.shape, form.stride, strict=True)):
        if _is_expanded(size, stride):
            source, target = source.narrow(dim, 0, 1), target.narrow(dim, 0, 1)
    target.copy_(source)
    return made
