"""Why a program does not answer a call: what changed since it was compiled, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from laser_fx.cache import plain_values
from laser_fx.call import Call, flatten_call
from laser_fx.captured import Captured
from laser_fx.fingerprint import Fingerprint
from laser_fx.program import Mode
from laser_fx.values import shown

__all__ = ["Cause", "causes"]


class Cause(NamedTuple):
    """One thing that changed.

    Args:
        thing: ``in_x size 1``, ``argument scale``, ``training``.
        change: ``was 36, is 81``.
    """

    thing: str
    change: str

    def __str__(self) -> str:
        return f"{self.thing} {self.change}".rstrip()


def causes(
    captured: Captured,
    states: tuple[Fingerprint, Fingerprint],
    modes: tuple[Mode, Mode],
    call: Call,
    parameters: Sequence[str] = (),
) -> tuple[Cause, ...]:
    """All that keeps a graph from answering a call.

    Args:
        captured: the graph and the call that it was captured with.
        states: the model's fingerprint then and now.
        modes: the modes then and now.
        call: the call at hand.
        parameters: names of the positional arguments of forward.
    """
    found = [*_of_modes(*modes), *_of_model(*states), *_of_call(captured, call, parameters)]
    return tuple(found) or (Cause("sizes", "that were equal differ"),)


def _of_modes(old: Mode, new: Mode) -> Iterator[Cause]:
    for name in ("training", "grad_enabled", "autocast"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield Cause(name, f"was {was}, is {now}")


def _of_model(old: Fingerprint, new: Fingerprint) -> Iterator[Cause]:
    text = old.difference(new)
    if text is not None:
        thing, was, rest = text.partition(" was ")
        yield Cause(thing, (was + rest).strip())


def _of_call(captured: Captured, call: Call, parameters: Sequence[str]) -> Iterator[Cause]:
    if call.spec != captured.call.spec or len(call.tensors) != len(captured.call.tensors):
        yield Cause("the arguments", "are another tree, or have tensors in other places")
        return
    pairs = zip(_constant_names(call, parameters), plain_values(captured.call), plain_values(call), strict=True)
    for name, old, new in pairs:
        if old != new:
            was, now = shown(old), shown(new)
            yield Cause(f"argument {name}", "changed" if was is None or now is None else f"was {was}, is {now}")
    for name, tensor, value, example in zip(
        captured.inputs, call.tensors, captured.input_values(), captured.call.tensors, strict=True
    ):
        yield from _of_tensor(name, tensor, value, example, bool(captured.guards))


def _of_tensor(name: str, tensor: Tensor, value: Tensor, example: Tensor, guarded: bool) -> Iterator[Cause]:
    for field in ("dtype", "device", "ndim"):
        was, now = getattr(example, field), getattr(tensor, field)
        if was != now:
            yield Cause(f"{name} {field}", f"was {was}, is {now}".replace("torch.", ""))
    if tensor.ndim != example.ndim:
        return
    for dim, (now, was) in enumerate(zip(tensor.shape, example.shape, strict=True)):
        free = isinstance(value.shape[dim], torch.SymInt) and not guarded
        if not free and now != was:
            yield Cause(f"{name} size {dim}", f"was {was}, is {now}")
        elif free and now < 2:
            yield Cause(f"{name} size {dim}", f"was free from 2 on, is {now}")


def _constant_names(call: Call, parameters: Sequence[str]) -> tuple[str, ...]:
    """A readable name for each argument that is no tensor."""
    args, kwargs = call.rebuild(call.tensors)
    leaf = torch.empty(0)
    as_tensors: tuple[Any, dict[str, Any]] = pytree.tree_map(lambda _: leaf, (args, kwargs))
    names = flatten_call(*as_tensors, parameters).names
    return tuple(names[position] for position, _ in call.constants)
