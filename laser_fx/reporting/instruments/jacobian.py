"""Products with the Jacobian of one step of a loop, with respect to all that is carried and floating."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Jacobian"]

Linear = Callable[..., Any]
"""A linear map of tensors, one for each carry."""


class Jacobian:
    """``∂z'/∂z`` of a step at the state z that it was given; all that is not differentiated stays as it was there.

    The transposed product is made once, and runs as often as it is asked for. It is linear, so the transposed product
    of it is the other one: autograd runs that four times as fast as forward mode, which goes through Python for every
    operator and makes z' again each time. Forward mode serves where an operator has no second derivative. Attention is
    computed as plain products: the fused kernels have neither.

    Args:
        body: takes what a step takes, returns the next carry first.
        inputs: what the step was given.
        places: of the carries that are differentiated.
    """

    def __init__(self, body: Callable[..., Sequence[Any]], inputs: Sequence[Any], places: Sequence[int]) -> None:
        self.body, self.inputs, self.places = body, tuple(inputs), tuple(places)
        self.states = tuple(inputs[place].detach() for place in places)
        self.device = "cpu" if self.states[0].device.type == "mps" else self.states[0].device

    @property
    def size(self) -> int:
        """Numbers in z."""
        return sum(state.numel() for state in self.states)

    def product(self, vector: Tensor) -> Tensor:
        """``Jv``: (n,) float64 to (n,) float64."""
        with sdpa_kernel(SDPBackend.MATH):
            return self._joined(self._push(*self._split(vector)))

    def transposed(self, vector: Tensor) -> Tensor:
        """``Jᵀu``: (n,) float64 to (n,) float64."""
        with sdpa_kernel(SDPBackend.MATH):
            return self._joined(self._pull(*self._split(vector)))

    @cached_property
    def _pull(self) -> Linear:
        pull: Linear = torch.func.vjp(self._next, *self.states)[1]
        return lambda *parts: pull(parts)

    @cached_property
    def _push(self) -> Linear:
        zeros = tuple(torch.zeros_like(state) for state in self.states)
        try:
            push: Linear = torch.func.vjp(self._pull, *zeros)[1]
            push(zeros)
        except (NotImplementedError, RuntimeError):
            return self._forward_mode
        return lambda *parts: push(parts)

    def _forward_mode(self, *parts: Tensor) -> Any:
        return torch.func.jvp(self._next, self.states, parts)[1]

    def _next(self, *states: Tensor) -> tuple[Tensor, ...]:
        given = list(self.inputs)
        for place, state in zip(self.places, states, strict=True):
            given[place] = state
        results = self.body(*given)
        # A body may hand on what it was given: a copy has a gradient of its own.
        return tuple(results[place].clone() for place in self.places)

    def _split(self, vector: Tensor) -> tuple[Tensor, ...]:
        flat = vector.split([state.numel() for state in self.states])
        return tuple(part.reshape(s.shape).to(s.device, s.dtype) for part, s in zip(flat, self.states, strict=True))

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.detach().reshape(-1).to(self.device).double() for part in parts])
