"""What may be done with the output before backward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import laser_fx
from tests.small import WIDTH, model, step
from tests.training.loops import EXACT, gradients, options, same_to

Forward = Callable[[Any, Tensor], Any]
MEMORIES = ["lean", "min", "laser"]


def loop(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = step(self, z, x)
    return z


def linear(self: Any, x: Tensor) -> Tensor:
    out: Tensor = self.b(loop(self, x))
    return out


def a_row(self: Any, x: Tensor) -> Tensor:
    return linear(self, x)[0]


def turned(self: Any, x: Tensor) -> Tensor:
    return linear(self, x).T


def rows_apart(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    whole = linear(self, x)
    return whole[0] + 0.0, whole[1:]


def every_state(self: Any, x: Tensor) -> Tensor:
    return torch.stack([loop(self, x), linear(self, x)])[1]


def states_are_kept(self: Any, x: Tensor) -> Tensor:
    return loop(self, x)


def views_of_one(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    z = loop(self, x)
    return z, z.view(-1)


def a_view_is_kept(self: Any, x: Tensor) -> Tensor:
    return loop(self, x).T


def exponential(self: Any, x: Tensor) -> Tensor:
    return linear(self, x).exp().unsqueeze(0)


def write_and_train(run: Any, x: Tensor) -> None:
    output = run(x)
    first = output[0] if isinstance(output, tuple) else output
    first.mul_(2.0)
    parts = output if isinstance(output, tuple) else (output,)
    torch.stack([part.square().sum() for part in parts]).sum().backward()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("forward", [linear, a_row, turned, rows_apart, every_state])
def test_an_output_that_backward_does_not_need_is_written_into_as_in_eager(forward: Forward, memory: Any) -> None:
    module, x = model(forward).train(), torch.randn(5, WIDTH)
    other = copy.deepcopy(module)
    write_and_train(laser_fx.compile(module, options=options(memory)), x)
    write_and_train(other, x)
    same_to(gradients(module), gradients(other), EXACT)


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("forward", [states_are_kept, views_of_one, a_view_is_kept, exponential])
def test_an_output_that_backward_needs_is_refused_as_in_eager(forward: Forward, memory: Any) -> None:
    if forward is exponential and memory == "min":
        pytest.skip("this plan makes it again, and so does not need it")
    module, x = model(forward).train(), torch.randn(5, WIDTH)
    for run in (laser_fx.compile(module, options=options(memory)), module):
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation|modified inplace"):
            write_and_train(run, x)
