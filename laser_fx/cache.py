"""What was captured and proved for a model, kept for as long as the model lives.

One cache for the process, weak on the models. A program found here is one that capturing anew would give: the model
has the same `Fingerprint`, the inputs have the same tree, plain values, shapes, dtypes and devices, the modes are the
same, and so is what counts as a loop. Tracking is inserted afterwards, and ranks are measured on the inputs at hand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from laser_fx.aside import aside
from laser_fx.call import Call
from laser_fx.capture import check_finite
from laser_fx.captured import dense_order
from laser_fx.errors import CaptureError, InputError
from laser_fx.fingerprint import Fingerprint
from laser_fx.options import Options
from laser_fx.passes.pipeline import build_program, retrack
from laser_fx.program import Mode, Program
from laser_fx.values import Reader

__all__ = ["clear", "plain_values", "program_for"]

_LIMIT = 64


class _Entry(NamedTuple):
    """An exact program, and what it was captured for. It does not hold the model."""

    key: tuple[Any, ...]
    state: Fingerprint
    program: Program


_entries = WeakIdKeyDictionary()
_nobody = nn.Module()


def program_for(
    model: nn.Module, state: Fingerprint, call: Call, mode: Mode, options: Options, *, dynamic: bool = True
) -> Program:
    """The program for a call: captured before, or now.

    Args:
        model: in the mode that ``mode`` says.
        state: its fingerprint.
        call: example inputs; ranks are measured on these.
        mode: training flag, grad mode and autocast.
        options: what the program may do.
        dynamic: leave the shared leading dimension free.

    Raises:
        CaptureError: the model cannot be captured, or writes into its tensors where gradients are on.
        NonFiniteError: a weight or an input is not finite.
        InputError: the model's parameters are sharded.
    """
    own = replace(call, tensors=tuple([_without_history(tensor) for tensor in call.tensors]))
    found = (mode, options.min_trip, options.free_sizes, dynamic)
    key = (*found, call.spec, plain_values(call), *map(_signature, call.tensors))
    with aside(), torch.inference_mode(False), torch.set_grad_enabled(mode.grad_enabled), mode.casting(call):
        known = _entries.setdefault(model, [])
        exact = next((e.program for e in known if e.key == key and e.state == state), None)
        if exact is None:
            _refuse_inference_tensors(model)
            _refuse_sharded(model)
            plain = Options.exact(min_trip=options.min_trip, free_sizes=options.free_sizes)
            exact = build_program(model, own, mode, plain, dynamic=dynamic)
            known.append(_Entry(key, state, replace(exact, model=_nobody)))
            del known[:-_LIMIT]
        else:
            check_finite(model, call)
            exact = _served(exact, model, own)
        return retrack(exact, options)


def clear() -> None:
    """Forget every program, as after changing what no `Fingerprint` can see.

    >>> clear()
    """
    with aside():
        _entries.clear()


def plain_values(call: Call) -> tuple[Any, ...]:
    """The arguments that are no tensors, so that they compare as a graph sees them: 1, 1.0 and True are three."""
    return tuple([Reader().value(value) for _, value in call.constants])


def _served(program: Program, model: nn.Module, call: Call) -> Program:
    """A program from the cache, for the model and the inputs at hand."""
    pairs = zip(call.tensors, program.capture.call.tensors, strict=True)
    # A batch of one was doubled for capture.
    tensors = tuple([t if t.shape == example.shape else torch.cat([t, t]) for t, example in pairs])
    return replace(program, model=model, capture=replace(program.capture, call=replace(call, tensors=tensors)))


def _refuse_inference_tensors(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise CaptureError(
                "a parameter was made under torch.inference_mode, which torch.export does not take",
                where=f"weight {name}",
                fix="make or load the model outside of torch.inference_mode; calls may be inside",
            )


def _refuse_sharded(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if type(parameter).__module__.startswith("torch.distributed."):
            raise InputError(
                f"a parameter is sharded over processes: it is a {type(parameter).__name__}",
                where=f"weight {name}",
                fix="compile first, and shard the whole of it: fully_shard(laser_fx.compile(model))",
            )


def _signature(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.device, tensor.requires_grad, dense_order(tensor)


def _without_history(tensor: Tensor) -> Tensor:
    """The same values without the graph that made them, which a kept example would keep alive."""
    return tensor if tensor.grad_fn is None else tensor.detach().requires_grad_()
