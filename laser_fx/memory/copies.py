"""Copies of a model, to measure without touching it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from laser_fx.call import Call
from laser_fx.errors import InputError
from laser_fx.sentences import first_line

__all__ = ["copied", "copied_inputs"]


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares no weight with the model.

    Raises:
        InputError: the model holds what cannot be copied.

    >>> model = nn.Linear(2, 2)
    >>> copied(model).weight is model.weight
    False
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the model's own parts raise
        fix = "hold tensors with a history nowhere in the model (detach them, or compute them in forward)"
        raise InputError(
            f"the model cannot be copied: {first_line(error)}", where=type(model).__name__, fix=fix
        ) from error


def copied_inputs(call: Call) -> tuple[Tensor, ...]:
    """Copies of the tensors of a call that autograd takes: a model may write into them, or want them for backward.

    >>> from laser_fx.call import flatten_call
    >>> with torch.inference_mode():
    ...     x = torch.ones(2)
    >>> copied_inputs(flatten_call((x,), {}))[0].is_inference()
    False
    """
    with torch.inference_mode(False):
        return tuple([tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in call.tensors])
