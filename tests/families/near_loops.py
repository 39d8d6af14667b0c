"""Repetitions that are no loop: in each, one thing differs in one step, or every step has weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock
from tests.small import WIDTH, model

Trips = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class NearLoop:
    """A repetition that must be refused as a whole.

    Args:
        model: makes it, in evaluation mode.
        inputs: makes example inputs of a batch size.
        keyword: what the reason for the refusal names, in lower case.
        trips: (nesting level, trip count) of the loops before and after the step that differs.
        captured: whether it can be captured at all.
    """

    model: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    keyword: str
    trips: Trips = ()
    captured: bool = True


NEAR_LOOPS: dict[str, NearLoop] = {}
STEPS, CHANGED = 6, 2
"""Steps of every repetition below, and the one that differs: two steps before it, three after it."""


def rows(batch: int) -> tuple[Tensor, ...]:
    return (torch.randn(batch, WIDTH),)


def near(keyword: str, *trips: tuple[int, int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a forward of `tests.small.Parts` under its name."""

    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        NEAR_LOOPS[forward.__name__] = NearLoop(lambda: model(forward), rows, keyword, trips)
        return forward

    return register


@near("weight", (0, 2), (0, 3))
def another_weight(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh((self.untied[0] if t == CHANGED else self.a)(z) + x)
    return z


@near("bias", (0, 2), (0, 3))
def another_bias(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        bias = self.start if t == CHANGED else self.a.bias
        z = torch.tanh(torch.nn.functional.linear(z, self.a.weight, bias) + x)
    return z


@near("0.25", (0, 2), (0, 3))
def another_constant(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh(self.a(z) * (0.25 if t == CHANGED else 0.5) + x)
    return z


@near("bfloat16", (0, 2), (0, 3))
def another_dtype(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh(self.a(z).to(torch.bfloat16 if t == CHANGED else torch.float16)).float() + x
    return z


@near("operator", (0, 2), (0, 3))
def another_operator(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = (torch.sin if t == CHANGED else torch.tanh)(self.a(z) + x)
    return z


@near("operator", (0, 2), (0, 3))
def operators_in_another_order(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = self.a(z) + x
        z = torch.sin(torch.tanh(z)) if t == CHANGED else torch.tanh(torch.sin(z))
    return z


@near("argument", (0, 2), (0, 3))
def operands_in_another_order(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        y = torch.tanh(self.a(z))
        z = x - y if t == CHANGED else y - x
    return z


# The state that is read once more was made before the last four steps: to them it is a value known up front.
@near("step", (0, 2), (0, 4))
def a_skip_over_one_step(self: Any, x: Tensor) -> Tensor:
    states = [x]
    for t in range(STEPS):
        states.append(torch.tanh(self.a(states[-1]) + (states[-2] if t == 3 else x)))
    return states[-1]


@near("dim", (0, 2), (0, 3))
def another_dimension(self: Any, x: Tensor) -> Tensor:
    z = torch.stack([x] * WIDTH, 1)
    for t in range(STEPS):
        z = torch.softmax(self.a(z), dim=1 if t == CHANGED else 2)
    return z


# Too few steps are left on either side of the one that differs: nothing repeats.
@near("weight")
def another_weight_in_the_middle_of_three(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(3):
        z = torch.tanh((self.b if t == 1 else self.a)(z) + x)
    return z


@near("constant")
def a_constant_of_each_step(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh(self.a(z) * (0.5 + t))
    return z


class Untied(nn.Module):
    """A transformer of identical blocks with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerBlock(WIDTH, heads=2) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _branch_on_data(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(STEPS):
        z = torch.tanh(self.a(z) + x)
        if z.norm() < 0.5:
            z = z * 2
    return z


NEAR_LOOPS["untied_transformer"] = NearLoop(
    lambda: Untied().eval(), lambda batch: (torch.randn(batch, 5, WIDTH),), "weight"
)
NEAR_LOOPS["branch_on_data"] = NearLoop(lambda: model(_branch_on_data), rows, "branch", captured=False)
