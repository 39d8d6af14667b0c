"""A model and the arguments of one call of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from laser_fx.errors import InputError

__all__ = ["Example", "GivenInput", "ready"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Example:
    """A model and the arguments of one call of it.

    Args:
        model: the model.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GivenInput:
    """One tensor of ``--inputs``.

    Args:
        name: the argument that it is, ``batch.tokens`` for an entry of a dictionary; None: the next one.
        value: the tensor.
    """

    name: str | None
    value: Tensor


def ready(model: nn.Module, given: Sequence[GivenInput]) -> Example:
    """The call that these tensors make: those without a name in order, the others where forward has their names.

    Raises:
        InputError: a name that forward does not have, one that comes twice, or an argument that is left without one.

    >>> import torch
    >>> call = ready(nn.Bilinear(2, 3, 1), [GivenInput("input2", torch.ones(4, 3)), GivenInput(None, torch.ones(4, 2))])
    >>> [tuple(value.shape) for value in call.args]
    [(4, 2), (4, 3)]
    """
    forward = model.forward
    where = f"{type(model).__name__}.forward{_text(forward)}"
    named = _nested([(one.name, one.value) for one in given if one.name is not None], where)
    unnamed = [one.value for one in given if one.name is None]
    parameters = inspect.signature(forward).parameters.values()
    order = [p.name for p in parameters if p.kind in _POSITIONAL]
    _check_names(named, parameters, where)
    free = [name for name in order if name not in named]
    gathers = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if len(unnamed) > len(free) and not gathers:
        fix = "leave some of --inputs out, or give them names: x=float32[4,8]"
        raise InputError(f"{len(unnamed)} inputs came in order, for {len(free)} arguments", where=where, fix=fix)
    values = {**dict(zip(free, unnamed, strict=False)), **named}
    _check_missing(parameters, values, where)
    # From the first argument that is left to its default on, the others go by name.
    count = next((i for i, name in enumerate(order) if name not in values), len(order))
    args = tuple(values.pop(name) for name in order[:count])
    return Example(model, (*args, *unnamed[len(free) :]), values)


def _check_names(named: Mapping[str, Any], parameters: Any, where: str) -> None:
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    if unknown := [name for name in named if name not in known]:
        fix = f"name the inputs as forward does: {', '.join(known)}" if known else "give the inputs no names"
        raise InputError(f"forward has no argument {unknown[0]!r}", where=where, fix=fix)


def _check_missing(parameters: Any, values: Mapping[str, Any], where: str) -> None:
    kinds = (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters if p.kind in kinds and p.default is p.empty]
    if missing := [name for name in needed if name not in values]:
        fix = f"add --inputs {missing[0]}=float32[4,81,256]"
        raise InputError(f"no input was given for {', '.join(missing)}", where=where, fix=fix)


def _nested(given: Sequence[tuple[str, Tensor]], where: str) -> dict[str, Any]:
    """``batch.tokens`` is the entry ``tokens`` of the dictionary that is the argument ``batch``."""
    found: dict[str, Any] = {}
    for name, value in given:
        *path, last = name.split(".")
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InputError(f"{part} is a tensor and a dictionary", where=where, fix="give it once")
        if last in inner:
            raise InputError(f"{name} was given twice", where=where, fix="leave one of them out")
        inner[last] = value
    return found


def _text(forward: Callable[..., Any]) -> str:
    signature = inspect.signature(forward)
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=signature.empty))
