"""Recursive forwards of every shape, and the nest that each must be found to have: (nesting level, trip count)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.small import WIDTH, step

Trips = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Case:
    """A forward of `tests.small.Parts`, and its nest in evaluation and in training."""

    forward: Callable[..., Any]
    trips: Trips
    training_trips: Trips


CASES: dict[str, Case] = {}


def case(*trips: tuple[int, int], training: Trips | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        CASES[forward.__name__] = Case(forward, trips, trips if training is None else training)
        return forward

    return register


@case((0, 4))
def one_loop(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = step(self, z, x)
    return z


@case((0, 2))
def two_steps(self: Any, x: Tensor) -> Tensor:
    return step(self, step(self, x, x), x)


@case((0, 4))
def prediction_of_every_step(self: Any, x: Tensor) -> list[Tensor]:
    z, predictions = x, []
    for _ in range(4):
        z = step(self, z, x)
        predictions.append(self.b(z))
    return predictions


@case((0, 4))
def state_of_every_step(self: Any, x: Tensor) -> Tensor:
    z, states = x, []
    for _ in range(4):
        z = step(self, z, x)
        states.append(z)
    return torch.stack(states)


@case((0, 4))
def some_steps_are_used(self: Any, x: Tensor) -> tuple[Tensor, ...]:
    z, states = x, []
    for _ in range(4):
        z = step(self, z, x)
        states.append(z)
    return states[0] + states[2], states[-1], states[1]


@case((0, 4))
def row_by_step(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(4):
        z = torch.tanh(self.a(z) + self.rows[t])
    return z


@case((0, 4))
def zeros_at_first(self: Any, x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    for _ in range(4):
        z = step(self, z, x)
    return z


@case((0, 4))
def weight_at_first(self: Any, x: Tensor) -> Tensor:
    z = self.start.expand(x.shape[0], WIDTH)
    for _ in range(4):
        z = step(self, z, x)
    return z


@case((0, 3))
def first_step_of_another_shape(self: Any, x: Tensor) -> Tensor:
    z = self.start
    for _ in range(4):
        z = step(self, z, x)
    return z


@case((0, 3), (0, 5))
def loop_after_loop(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = step(self, z, x)
    for _ in range(5):
        z = torch.relu(self.b(z) - x)
    return z


@case((0, 2), (1, 3), (2, 4))
def three_deep(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    a = b = c = x
    for _ in range(2):
        for _ in range(3):
            for _ in range(4):
                a = torch.tanh(self.a(a) + b)
            b = torch.tanh(self.b(b) + a)
        c = c + b * torch.sigmoid(c) @ self.a.weight
    return a, c


@case((0, 3), (1, 2))
def output_of_every_inner_step(self: Any, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    z, h, sums = x, x, []
    for _ in range(3):
        for _ in range(2):
            z = torch.tanh(self.a(z) + h)
            sums.append(z.sum(-1))
        h = torch.tanh(self.b(h) + z)
    return h, sums


# The inner loop's states rotate: which of its values are read outside differs from one run of it to the next.
@case((0, 2), (1, 2), (2, 3))
def states_rotate_in_an_inner_loop(self: Any, x: Tensor) -> tuple[Any, ...]:
    p, q, r = x, x, x
    sums = []
    for _ in range(2):
        for _ in range(2):
            for _ in range(4):
                wide = self.a(p)
                r = torch.tanh(self.a(wide))
                sums.append(wide.sum(-1))
                p, q, r = q, r, p
            q = torch.tanh(self.a(q + q))
        p = torch.tanh(self.a(p + p))
    return p, q, r, sums


@case((0, 4))
def two_back(self: Any, x: Tensor) -> Tensor:
    before, z = x, x * 2
    for _ in range(5):
        before, z = z, torch.tanh(self.a(z) + before)
    return z


@case((0, 4))
def states_swap(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    p, q = x, x * 2
    for _ in range(4):
        p, q = torch.tanh(self.a(q)), torch.tanh(self.b(p))
    return p, q


@case((0, 2), (1, 2), (2, 2))
def four_states_take_turns(self: Any, x: Tensor) -> list[Tensor]:
    z = [x, x + 1, x + 2, x + 3]
    for i in range(8):
        z[i % 4] = torch.tanh(self.a(z[i % 4]) + z[(i + 1) % 4] + z[(i + 2) % 4] + z[(i + 3) % 4])
    return z


@case((0, 4))
def dropout(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = self.dropout(step(self, z, x))
    return z


@case((0, 4))
def sizes_in_the_body(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = torch.tanh(self.a(z).reshape(x.shape[0], 2, 4).transpose(1, 2).reshape(-1, WIDTH) + x)
    return z


@case((0, 3))
def parts_of_a_result(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        p, q = torch.tanh(self.a(z)).chunk(2, -1)
        z = torch.cat([q * torch.sigmoid(p), p], -1) + x
    return z


@case((0, 3))
def weight_transposed_once(self: Any, x: Tensor) -> Tensor:
    z, w = x, self.a.weight.t()
    for _ in range(3):
        z = torch.tanh(z @ w + x)
    return z


@case((0, 3))
def other_outputs(self: Any, x: Tensor) -> tuple[Any, ...]:
    z = x
    for _ in range(3):
        z = step(self, z, x)
    return z, self.start * 2, 3, None, x, {"again": z}


# The last step has gradients and the others have not: two regions, which evaluation does not tell apart.
@case((0, 5), training=((0, 4),))
def gradient_through_the_last_step(self: Any, x: Tensor) -> Tensor:
    z = x
    with torch.no_grad():
        for _ in range(4):
            z = step(self, z, x)
    return step(self, z, x)


@case()
def untied_layers(self: Any, x: Tensor) -> Tensor:
    z = x
    for layer in self.untied:
        z = torch.tanh(layer(z) + x)
    return z


@case((0, 2), (0, 2))
def another_weight_in_the_middle(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(5):
        z = torch.tanh((self.b if t == 2 else self.a)(z) + x)
    return z


@case((0, 3), (0, 2))
def another_constant_in_one_step(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(6):
        z = torch.tanh(self.a(z) * (0.25 if t == 3 else 0.5) + x)
    return z


@case((0, 2), (0, 3))
def another_operator_in_one_step(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(6):
        z = (torch.sin if t == 2 else torch.tanh)(self.a(z) + x)
    return z


@case()
def a_number_that_grows(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(6):
        z = torch.tanh(self.a(z) * (0.5 + t))
    return z


@case()
def nothing_carried(self: Any, x: Tensor) -> list[Tensor]:
    return [torch.tanh(self.a(x + self.rows[t])) for t in range(4)]


@case()
def a_state_that_grows(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = torch.cat([z, torch.tanh(self.a(z[-2:]))], 0)
    return z
