"""Loops in every place and shape that a network puts them in, and that no architecture is named after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.small import WIDTH, step

STRUCTURES: dict[str, Callable[..., Any]] = {}


def structure(title: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a forward of `tests.small.Parts` under what the table calls it."""

    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        STRUCTURES[title] = forward
        return forward

    return register


@structure("trip 2")
def two_steps(self: Any, x: Tensor) -> Tensor:
    return step(self, step(self, x, x), x)


@structure("trip 3")
def three_steps(self: Any, x: Tensor) -> Tensor:
    return step(self, step(self, step(self, x, x), x), x)


@structure("first step differs: state of shape (D,)")
def first_state_is_broadcast(self: Any, x: Tensor) -> Tensor:
    z = self.start
    for _ in range(5):
        z = step(self, z, x)
    return z


@structure("first step differs: constant state")
def first_state_is_constant(self: Any, x: Tensor) -> Tensor:
    z = torch.full((WIDTH,), 0.5)
    for _ in range(5):
        z = step(self, z, x)
    return z


@structure("first step differs: no input added")
def first_step_is_shorter(self: Any, x: Tensor) -> Tensor:
    z = torch.tanh(self.a(x))
    for _ in range(4):
        z = step(self, z, x)
    return z


@structure("last step differs: no activation")
def last_step_is_shorter(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(5):
        z = self.a(z) + x
        z = torch.tanh(z) if t < 4 else z
    return z


@structure("inside a larger net")
def between_untied_layers(self: Any, x: Tensor) -> Tensor:
    x = torch.relu(self.untied[1](torch.relu(self.untied[0](x))))
    z = x
    for _ in range(4):
        z = step(self, z, x)
    return self.untied[3](torch.relu(self.untied[2](z)))


@structure("two loops of one body")
def two_loops_of_one_body(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = step(self, z, x)
    y = torch.relu(self.b(z))
    z = y
    for _ in range(5):
        z = step(self, z, y)
    return z


@structure("two loops, interleaved evenly")
def interleaved_evenly(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    p, q = x, x
    for _ in range(4):
        p = step(self, p, x)
        q = torch.sin(self.b(q) - x)
    return p, q


@structure("two loops, interleaved irregularly")
def interleaved_irregularly(self: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    p, q = x, y
    for letter in "pqqppqqqpqq":
        if letter == "p":
            p = step(self, p, x)
        else:
            q = torch.sin(self.b(q) - y)
    return p, q


@structure("two loops of one input, interleaved irregularly")
def interleaved_over_one_input(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return interleaved_irregularly(self, x, x)


@structure("skip from step t to t + 2, carried")
def skip_carried(self: Any, x: Tensor) -> Tensor:
    before, z = x, x * 2
    for _ in range(5):
        before, z = z, torch.tanh(self.a(z) + before)
    return z


@structure("states take turns in a list")
def states_take_turns(self: Any, x: Tensor) -> list[Tensor]:
    z = [x, x + 1, x + 2, x + 3]
    for i in range(12):
        z[i % 4] = torch.tanh(self.a(z[i % 4]) + z[(i + 1) % 4] * z[(i + 2) % 4] - z[(i + 3) % 4])
    return z


@structure("constant made anew in each step")
def constant_of_every_step(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = torch.tanh(self.a(z) * torch.tensor([0.5]) + x)
    return z


@structure("another input in one step")
def another_input_in_one_step(self: Any, x: Tensor, y: Tensor) -> Tensor:
    z = x
    for t in range(4):
        z = step(self, z, y if t == 2 else x)
    return z
