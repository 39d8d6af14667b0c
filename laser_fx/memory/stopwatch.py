"""How long something takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["noise", "seconds"]

_REPEATS = 3


def noise(count: int, device: torch.device | str = "cpu") -> Tensor:
    """So many numbers in [0, 1), float32, to time something on; torch's own generators stay where they are.

    >>> noise(3).shape
    torch.Size([3])
    """
    return torch.rand(count, device=device, generator=torch.Generator(device).manual_seed(0))


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """The least of a few runs, after one that warms up; no gradients, no autocast, no mode of the caller's.

    >>> seconds(lambda: sum(range(100))) > 0
    True
    """
    with _disable_current_modes(), torch.no_grad(), torch.autocast(device, enabled=False):
        run()
        return min(_once(run, device) for _ in range(_REPEATS))


def _once(run: Callable[[], object], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
