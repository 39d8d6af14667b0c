"""Tracing goes on aside from what the caller does with autograd, and one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["aside", "is_checkpointed"]

_lock = threading.RLock()  # torch's tracers patch what is global to the process


@contextmanager
def aside() -> Iterator[None]:
    """Inside, one thread traces, and nothing that watches the caller's autograd sees what it does.

    Hooks on saved tensors and dispatch modes (checkpointing, offloading and counters are such) would take the tracer's
    tensors for tensors of the call, and the search for anomalies would look at numbers that a trace does not have.

    >>> seen = []
    >>> with torch.autograd.graph.saved_tensors_hooks(seen.append, lambda kept: kept):
    ...     with aside():
    ...         result = torch.ones(2, requires_grad=True).exp()
    >>> seen
    []
    """
    with _lock, _disable_current_modes(), torch.autograd.set_detect_anomaly(False):
        before = torch._C._autograd._saved_tensors_hooks_set_tracing(True)
        try:
            yield
        finally:
            torch._C._autograd._saved_tensors_hooks_set_tracing(before)


def is_checkpointed() -> bool:
    """Whether `torch.utils.checkpoint` will run what runs here again, or does so now.

    >>> is_checkpointed()
    False
    >>> x = torch.ones(2, requires_grad=True)
    >>> torch.utils.checkpoint.checkpoint(lambda x: x * is_checkpointed(), x, use_reentrant=False)
    tensor([1., 1.], grad_fn=<MulBackward0>)
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and getattr(hooks[0], "__module__", None) == "torch.utils.checkpoint"
