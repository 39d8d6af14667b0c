"""A training call as the program's own would be made, wherever it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from laser_fx.program import Program

__all__ = ["trained_as"]


@contextmanager
def trained_as(program: Program) -> Iterator[None]:
    """Inside, gradients are on and autocast is the program's, whatever the caller's are; random numbers stay his."""
    kind, dtype = program.capture.call.device_type, program.mode.autocast
    with (
        torch.random.fork_rng(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(kind, dtype, enabled=dtype is not None),
    ):
        yield
