"""`loop`: the loop that a model's author writes, and that a capture never unrolls."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from laser_fx.call import path_name, register_dataclasses
from laser_fx.errors import InputError
from laser_fx.markers import loop_begin, loop_end

__all__ = ["loop", "tracing_once"]

_ONCE: ContextVar[bool] = ContextVar("laser_fx_tracing_once", default=False)


@contextmanager
def tracing_once() -> Iterator[None]:
    """Inside, `loop` runs its body once, between two markers, for `laser_fx.cut_structured` to find."""
    token = _ONCE.set(True)
    try:
        yield
    finally:
        _ONCE.reset(token)


def loop(
    body: Callable[..., Any], carry: Any, trips: int, *, per_step: Sequence[Tensor] = (), collect: bool = False
) -> Any:
    """Run ``body`` ``trips`` times. Compiled, the body is traced once, however often it runs.

    In eager PyTorch this is the loop that it looks like, gradients included::

        for i in range(trips):
            carry = body(i, carry, *(values[i] for values in per_step))

    Anything that the body reads besides its arguments (weights, inputs, what was computed before) is the same at every
    step. Python code in the body runs once when the model is compiled: what it appends to a list or counts is not seen.
    Tracers other than laser-fx's (`torch.export`, dynamo in `torch.compile`) follow every step.

    Args:
        body: ``body(i, carry, *rows)`` returns the next carry; with ``collect`` a pair, the next carry and an output.
            ``i`` is a 0-d int64 tensor and no Python int, compiled or not: a body that branches on its step cannot be
            traced once. Read a table by it as ``table[i]``.
        carry: what the first step takes: a tensor, or a pytree of tensors (dicts, lists, dataclasses). Tree, shapes,
            dtypes and devices stay the same from step to step.
        trips: how many steps, at least 1.
        per_step: tensors (trips, …); step t takes row t of each.
        collect: whether the body returns an output, a tensor or a pytree of tensors of the same shapes at every step.

    Returns:
        The final carry; with ``collect`` a pair, the final carry and the outputs with the steps in front, (trips, …).

    Raises:
        InputError: ``trips`` is no whole number from 1 on, a value of ``per_step`` has another length, or the body
            returns something else than it takes.

    >>> layer = torch.nn.Linear(4, 4)
    >>> x, steps = torch.ones(2, 4), torch.zeros(10, 4)
    >>> def body(i, z, step):
    ...     z = torch.tanh(layer(z) + x + step)
    ...     return z, z.mean(-1)
    >>> z, means = loop(body, torch.zeros_like(x), 10, per_step=(steps,), collect=True)
    >>> z.shape, means.shape
    (torch.Size([2, 4]), torch.Size([10, 2]))
    """
    by_dynamo = torch.compiler.is_dynamo_compiling()  # it unrolls the loop, and follows neither frames nor contexts
    source = "laser_fx.loop" if by_dynamo else _source(sys._getframe(1))
    _check_trips(trips, source)
    _check_rows(per_step, trips, source)
    step = _Step(body, carry, collect, source)
    indices = torch.arange(trips, device=_device([*step.carry, *per_step]))
    run = _run_once if not by_dynamo and _ONCE.get() else _run_all
    return step.result(*run(step, trips, [indices, *per_step]))


def _run_all(step: _Step, trips: int, stacked: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Every step, as `laser_fx.rolled.RolledLoop` runs them."""
    rows = [values.unbind(0) for values in stacked]
    carry, collected = step.carry, []
    for t in range(trips):
        carry, outputs = step(carry, [row[t] for row in rows])
        collected.append(outputs)
    return carry, [torch.stack(values) for values in zip(*collected, strict=True)]


def _run_once(step: _Step, trips: int, stacked: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """One step between two markers."""
    count = len(step.carry)
    seen = loop_begin(step.carry, stacked, step.source)
    carry, outputs = step(seen[:count], seen[count:])
    results = loop_end(carry, outputs, trips)
    return results[:count], results[count:]


class _Flat(NamedTuple):
    """A pytree of tensors, taken apart."""

    leaves: list[Tensor]
    spec: pytree.TreeSpec


class _Step:
    """The body on flat tensors; checks what it returns."""

    def __init__(self, body: Callable[..., Any], carry: Any, collect: bool, source: str) -> None:
        self.body, self.collect, self.source = body, collect, source
        self.first = self._flatten(carry, "carry")
        self.output: _Flat | None = None

    @property
    def carry(self) -> list[Tensor]:
        """What the first step takes."""
        return self.first.leaves

    def __call__(self, carry: Sequence[Tensor], rows: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        index, *values = rows
        returned = self.body(index, pytree.tree_unflatten(carry, self.first.spec), *values)
        following, output = self._split(returned)
        now = self._flatten(following, "the carry that the body returns")
        self._check_same(self.first, now, "carry")
        return now.leaves, self._collected(output) if self.collect else []

    def result(self, carry: Sequence[Tensor], outputs: Sequence[Tensor]) -> Any:
        """What `loop` returns."""
        final = pytree.tree_unflatten(carry, self.first.spec)
        return final if self.output is None else (final, pytree.tree_unflatten(outputs, self.output.spec))

    def _split(self, returned: Any) -> tuple[Any, Any]:
        if not self.collect:
            return returned, None
        if not isinstance(returned, tuple) or len(returned) != 2:
            kind, fix = _type(returned), "return (carry, output), or leave out collect"
            raise InputError(f"the body returns a {kind}", where=self.source, fix=fix)
        return returned

    def _collected(self, output: Any) -> list[Tensor]:
        now = self._flatten(output, "the output of the body")
        self.output = self.output or now
        self._check_same(self.output, now, "output")
        return now.leaves

    def _flatten(self, tree: Any, what: str) -> _Flat:
        register_dataclasses(tree)
        paths, spec = pytree.tree_flatten_with_path(tree)
        for path, leaf in paths:
            if not isinstance(leaf, Tensor):
                at = f" at {path_name(path)}" if path else ""
                raise InputError(f"{what} holds a {_type(leaf)}{at}", where=self.source, fix="use tensors only")
        return _Flat([leaf for _, leaf in paths], spec)

    def _check_same(self, first: _Flat, now: _Flat, what: str) -> None:
        """Raise unless a step has the tree, shapes, dtypes and devices of the first."""
        fix = f"return a {what} of one structure at every step: the same tree, shapes and dtypes"
        if first.spec != now.spec:
            raise InputError(
                f"the tree of the {what} changes: {first.spec}, then {now.spec}", where=self.source, fix=fix
            )
        for position, (a, b) in enumerate(zip(first.leaves, now.leaves, strict=True)):
            if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
                raise InputError(f"{what} {position} changes: {_kind(a)}, then {_kind(b)}", where=self.source, fix=fix)


def _source(frame: FrameType) -> str:
    """``file:line`` at which a frame stands: the last two parts of the path, and nothing of the machine."""
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"


def _check_trips(trips: object, where: str) -> None:
    if not isinstance(trips, int) or isinstance(trips, bool) or trips < 1:
        raise InputError(
            f"trips is {trips!r}" if isinstance(trips, int) else f"trips is a {_type(trips)}",
            where=where,
            fix="pass a whole number of at least 1, known beforehand",
        )


def _check_rows(per_step: object, trips: int, where: str) -> None:
    if not isinstance(per_step, (tuple, list)):
        raise InputError(
            f"per_step is a {_type(per_step)}", where=where, fix="pass a tuple of tensors: per_step=(values,)"
        )
    for position, values in enumerate(per_step):
        if not isinstance(values, Tensor) or not values.ndim or values.shape[0] != trips:
            found = tuple(values.shape) if isinstance(values, Tensor) else _type(values)
            raise InputError(
                f"per_step[{position}] is {found} for {trips} trips", where=where, fix=f"pass a tensor ({trips}, …)"
            )


def _kind(value: Tensor) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"


def _type(value: object) -> str:
    return (
        "Tensor" if isinstance(value, Tensor) else type(value).__name__
    )  # while tracing, tensors are of another class


def _device(values: Sequence[Tensor]) -> torch.device:
    return values[0].device if values else torch.device("cpu")
