"""The untrained model to set beside a trained one: what its structure does by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn

from laser_fx.memory.copies import copied

__all__ = ["redrawn"]

_SEED = 1_000_003
"""No seed that a model is likely to be made with: its control would be itself."""


def redrawn(model: nn.Module, seed: int = _SEED) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy whose weights are drawn anew, by the ``reset_parameters`` of each module, inner ones first.

    Args:
        model: stays as it is, and so does the state of random numbers.
        seed: of the draws.

    Raises:
        InputError: the model cannot be copied.

    Returns:
        The copy, in the model's mode, and the names of modules that hold parameters of their own and have no
        ``reset_parameters``, or one that needs arguments: these keep their weights. Parameters that an outer module's
        ``reset_parameters`` draws are not told apart from those.

    >>> model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4))
    >>> copied, kept = redrawn(model)
    >>> bool((copied[0].weight == model[0].weight).any()), kept
    (False, ())
    """
    fresh = copied(model)
    devices = sorted({p.device.index or 0 for p in fresh.parameters() if p.device.type == "cuda"})
    kept = []
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        for name, module in _inner_first(fresh):
            # nn.MultiheadAttention has the other name.
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset) and not _needs_arguments(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                kept.append(name or type(module).__name__)
    return fresh, tuple(kept)


def _needs_arguments(reset: Callable[..., object]) -> bool:
    """Such a one is the module's own affair: nobody here knows what to pass."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    takes = inspect.signature(reset).parameters.values()
    return any(p.default is p.empty and p.kind not in variadic for p in takes)


def _inner_first(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield from reversed(list(model.named_modules()))
