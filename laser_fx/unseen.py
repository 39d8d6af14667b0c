"""What a trace would drop in silence is refused while it runs, and the model is left as it was.

`torch.export` follows operators. A backward of the author's own, a hook on a tensor, or an attribute that forward
assigns leave no operator in the graph: the graph would be proved equal to what was captured, and still be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from laser_fx.errors import CaptureError

__all__ = ["refuse_unseen_gradients", "unassigned"]

_WATCHED: ContextVar[bool] = ContextVar("laser_fx_watched", default=False)
_lock = Lock()


@contextmanager
def refuse_unseen_gradients() -> Iterator[None]:
    """Inside, what changes gradients without an operator raises `CaptureError`; other threads are not watched."""
    function, hooks = torch.autograd.Function, torch.autograd.graph.saved_tensors_hooks
    patches: list[tuple[Any, str, Callable[..., str | None]]] = [
        (function, "apply", _own_backward),
        (Tensor, "register_hook", lambda *_: "a hook on a tensor"),
        (hooks, "__enter__", _hooks_of_the_model),
        (torch.inference_mode, "__enter__", lambda mode: "torch.inference_mode" if mode.mode else None),
    ]
    with _lock:
        kept = [(owner, name, owner.__dict__[name]) for owner, name, _ in patches]
        for owner, name, complaint in patches:
            setattr(owner, name, _watching(owner.__dict__[name], complaint))
        token = _WATCHED.set(True)
        try:
            yield
        finally:
            _WATCHED.reset(token)
            for owner, name, original in kept:
                setattr(owner, name, original)


def _own_backward(function: type) -> str | None:
    return None if function.__module__.startswith("torch.") else f"the backward of {function.__name__}"


def _hooks_of_the_model(hooks: object) -> str | None:
    """Those of torch's own (checkpointing recomputes the same values) change no gradient."""
    alone = type(hooks) is torch.autograd.graph.saved_tensors_hooks
    return "saved_tensors_hooks" if alone or not type(hooks).__module__.startswith("torch.") else None


def _watching(original: Any, complaint: Callable[..., str | None]) -> Any:
    """A method, or class method, that complains first where this thread is watched."""
    bound = isinstance(original, classmethod)
    inner = original.__func__ if bound else original

    def watched(first: Any, *args: Any, **kwargs: Any) -> Any:
        what = complaint(first) if _WATCHED.get() else None
        if what is not None:
            raise CaptureError(
                f"{what} changes gradients, and no trace sees it",
                where="forward",
                fix="compile the part of the model without it, or train that part as it is",
            )
        return inner(first, *args, **kwargs)

    return classmethod(watched) if bound else watched


@contextmanager
def unassigned(model: nn.Module) -> Iterator[list[str]]:
    """Puts back what is assigned to attributes of the model and its submodules; the list then has their names."""
    before = [(name, module, _attributes(module)) for name, module in model.named_modules()]
    assigned: list[str] = []
    try:
        yield assigned
    finally:
        for name, module, kept in before:
            for held, attributes in zip((module.__dict__, module._buffers), kept, strict=True):
                changed = [key for key in held if key not in attributes or not _same(held[key], attributes[key])]
                assigned += [f"{name}.{key}".lstrip(".") for key in changed]
                for key in changed:
                    del held[key]
                held.update({key: value for key, value in attributes.items() if key not in held})


def _same(now: Any, before: Any) -> bool:
    plain = isinstance(now, (bool, int, float, str)) and type(now) is type(before)
    return now is before or (plain and now == before)


def _attributes(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor | None]]:
    return dict(module.__dict__), dict(module._buffers)
