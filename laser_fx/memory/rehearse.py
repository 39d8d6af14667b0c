"""A run of a training graph on tensors without data, to see the forms of its values and what it will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from laser_fx.memory.costs import operator_time

__all__ = ["ungraded_time"]


def ungraded_time(run: Callable[[], object]) -> int:
    """Nanoseconds that the operators take that run without gradients: no plan changes them.

    Args:
        run: runs a graph on fake tensors.
    """
    ungraded = _Ungraded()
    with ungraded:
        run()
    return ungraded.time


class _Ungraded(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.time: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            self.time += operator_time(func, args, kwargs, result)
        return result
