"""Notices parameters that are given other data between a forward and its backward.

Autograd notices writes into a tensor that it saved. ``parameter.data = …`` is no write: what was saved is the
parameter, and backward would go on with data that the forward never saw.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from laser_fx.errors import InputError

__all__ = ["Watched", "refuse_swapped", "watch"]

Watched = list[tuple["weakref.ref[Tensor]", int]]


def watch(tensors: Iterable[Tensor]) -> Watched:
    """Note what data the leaves among some tensors have now; nothing is kept alive."""
    leaves = [tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad]
    return [(weakref.ref(leaf), _storage(leaf)) for leaf in leaves if not isinstance(leaf, FakeTensor)]


def refuse_swapped(watched: Watched, where: str) -> None:
    """Raise where a tensor that was noted has other data.

    Raises:
        InputError: naming the sizes of the tensor.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> noted = watch([weight])
    >>> weight.data = torch.ones(2, 3)
    >>> refuse_swapped(noted, "backward of loop_0")
    Traceback (most recent call last):
        ...
    laser_fx.errors.InputError: a tensor of sizes (2, 3) was given other data between forward and backward
      where: backward of loop_0
      fix: assign to its .data after backward, or compile with laser_fx.Options(memory=None)
    """
    for reference, storage in watched:
        tensor = reference()
        if tensor is not None and _storage(tensor) != storage:
            raise InputError(
                f"a tensor of sizes {tuple(tensor.shape)} was given other data between forward and backward",
                where=where,
                fix="assign to its .data after backward, or compile with laser_fx.Options(memory=None)",
            )


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
