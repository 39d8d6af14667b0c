"""How long something takes on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["noise", "seconds"]

_LEAST_RUNS, _MOST_RUNS = 3, 500
_WINDOW = 1e-3
"""Seconds that the runs would take undisturbed: what else the machine does holds up few of many short ones."""


def noise(count: int, device: torch.device | str = "cpu") -> Tensor:
    """So many numbers in [0, 1), float32, to time something on; torch's own generators stay where they are.

    >>> noise(3).shape
    torch.Size([3])
    """
    return torch.rand(count, device=device, generator=torch.Generator(device).manual_seed(0))


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """The least of some runs, after one that warms up; no gradients, no autocast, no mode of the caller's.

    >>> seconds(lambda: sum(range(100))) > 0
    True
    """
    with _disable_current_modes(), torch.no_grad(), torch.autocast(device, enabled=False):
        run()
        least, runs = math.inf, 0
        while runs < _LEAST_RUNS or (runs < _MOST_RUNS and runs * least < _WINDOW):
            least, runs = min(least, _once(run, device)), runs + 1
        return least


def _once(run: Callable[[], object], device: str) -> float:
    _wait(device)
    began = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
