"""What the allocator gave out and got back during a step.

On the CPU the profiler sees every allocation and release of torch's allocator, with its size: those of operators, of
autograd functions, and of code that inductor made, which takes its buffers past the dispatcher (`tests.births` does not
see those). Scratch memory that MKL and oneDNN take by themselves is in no arm's figures. On CUDA the caching allocator
counts by itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch.autograd.profiler import profile, record_function

__all__ = ["Allocated", "allocated"]

Result = TypeVar("Result")
_FORWARD_ENDS = "laser_fx.benchmarks: forward ends"


@dataclass(frozen=True)
class Allocated:
    """Bytes above those that lived before the step.

    Args:
        held: live when forward has returned: what waits for backward, and the outputs.
        peak: the most that lived at any moment of forward and backward, the parameters' gradients included.
    """

    held: int
    peak: int


def allocated(forward: Callable[[], Result], backward: Callable[[Result], None], device: str) -> Allocated:
    """Counts one step.

    Args:
        forward: returns what backward starts from, and nothing else may keep that alive.
        backward: frees it.
        device: ``"cpu"`` or ``"cuda"``.

    >>> weight = torch.nn.Parameter(torch.ones(256))
    >>> allocated(lambda: weight.exp().sum(), lambda loss: loss.backward(), "cpu").held  # exp's result, and the loss
    1028
    """
    gc.collect()
    return (_on_cuda if device == "cuda" else _on_cpu)(forward, backward)


def _on_cuda(forward: Callable[[], Any], backward: Callable[[Any], None]) -> Allocated:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = [forward()]
    torch.cuda.synchronize()
    gc.collect()
    held = torch.cuda.memory_allocated() - before
    backward(result.pop())
    torch.cuda.synchronize()
    return Allocated(held, torch.cuda.max_memory_allocated() - before)


def _on_cpu(forward: Callable[[], Any], backward: Callable[[Any], None]) -> Allocated:
    with profile(profile_memory=True) as profiler:
        result = [forward()]
        gc.collect()  # a cycle of references is not what backward needs
        with record_function(_FORWARD_ENDS):
            pass
        backward(result.pop())
    changes = list(_changes(profiler))
    totals = [0, *accumulate(change or 0 for change in changes)]
    return Allocated(held=totals[changes.index(None)], peak=max(totals))


def _changes(profiler: profile) -> Iterator[int | None]:
    """Bytes given out, or negative those that came back, in order of time; None where forward ends."""
    assert profiler.kineto_results is not None
    for event in sorted(profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            yield event.nbytes()  # type: ignore[attr-defined]
        elif event.name() == _FORWARD_ENDS:
            yield None
