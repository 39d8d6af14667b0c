from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_fx.passes.schedule import schedules
from tests.small import WIDTH, backward, exact, model, same, viewed


def over_time(self: Any, x: Tensor) -> Tensor:
    h, states = torch.zeros_like(x[:, 0]), []
    for t in range(5):
        h = torch.tanh(self.a(h) + self.b(x[:, t]))
        states.append(h)
    return torch.stack(states, 1)


def over_the_last_dimension(self: Any, x: Tensor) -> Tensor:
    h = torch.zeros_like(x[..., 0])
    for t in range(4):
        h = torch.tanh(self.a(h) + x[:, :, t])
    return h


def rows_of_an_inner_loop(self: Any, x: Tensor) -> Tensor:
    z = h = x
    for _ in range(3):
        for t in range(4):
            z = torch.tanh(self.a(z) + self.rows[t] + h)
        h = torch.tanh(self.b(h) + z)
    return h


def in_turns(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    p = q = x
    for t in range(9):
        p = torch.tanh(self.a(p))
        if t in (0, 2, 3, 7):
            q = torch.sin(self.b(q))
    return p, q


def slices_after_another_reader(self: Any, x: Tensor) -> Tensor:
    h = torch.tanh(x.sum(1))
    for t in range(4):
        h = torch.tanh(self.a(h) + x[:, t])
    return h


CASES: dict[Callable[..., Any], tuple[tuple[int, ...], Any, Any]] = {
    over_time: ((3, 5, WIDTH), ((0, 5),), ((0, 5),)),
    over_the_last_dimension: ((3, WIDTH, 4), ((0, 4),), ((0, 4),)),
    rows_of_an_inner_loop: ((3, WIDTH), ((0, 3), (1, 4)), ((0, 3), (1, 4))),
    in_turns: ((3, WIDTH), ((0, 9), (0, 4)), None),
    # Taken before the sum, the slices would add to the gradient of x before it does.
    slices_after_another_reader: ((3, 4, WIDTH), ((0, 4),), ()),
}


@pytest.mark.parametrize("forward", CASES, ids=lambda f: f.__name__)
def test_loops_that_the_order_of_the_program_hides_are_found(forward: Callable[..., Any]) -> None:
    shape, evaluation, _ = CASES[forward]
    module, x = model(forward), torch.randn(*shape)
    with torch.no_grad():
        compiled = exact(module, x)
        assert compiled.loops.trips() == evaluation
        assert same(compiled(x), module(x))


@pytest.mark.parametrize("forward", CASES, ids=lambda f: f.__name__)
@pytest.mark.filterwarnings("ignore::laser_fx.errors.NoLoopWarning")
def test_gradients_are_summed_as_eager_sums_them(forward: Callable[..., Any]) -> None:
    shape, _, training = CASES[forward]
    module, x = model(forward).train(), torch.randn(*shape)
    compiled = exact(module, x)
    if training is not None:
        assert compiled.loops.trips() == training
    assert same(backward(compiled, module, x), backward(module, module, x))


def test_an_order_is_offered_once_and_never_the_programs_own() -> None:
    for forward, (shape, _, _) in CASES.items():
        _, view = viewed(model(forward), torch.randn(*shape))
        orders = [tuple(item.node.name for item in other.block.items) for other in schedules(view)]
        assert len(set(orders)) == len(orders)
        assert tuple(item.node.name for item in view.block.items) not in orders


def test_every_item_comes_after_what_it_reads() -> None:
    for forward, (shape, _, _) in CASES.items():
        _, view = viewed(model(forward), torch.randn(*shape))
        for other in schedules(view):
            for index, item in enumerate(other.block.items):
                assert all(ref[0] < index for ref in item.args)


def test_random_draws_keep_their_order() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        p = q = x
        for t in range(6):
            p = self.dropout(self.a(p))
            if t % 4 < 2:
                q = self.dropout(self.b(q))
        return p, q

    _, view = viewed(model(forward).train(), torch.randn(3, WIDTH))
    for other in schedules(view):
        drawn = [item.node.name for item in other.block.items if "dropout" in str(item.node.target)]
        assert drawn == [item.node.name for item in view.block.items if "dropout" in str(item.node.target)]


def test_parts_of_a_first_step_that_are_constants_stay_in_the_loop() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = torch.linspace(0.0, 1.0, WIDTH)
        for _ in range(4):
            z = torch.tanh(torch.sin(z * 3).unsqueeze(0) @ self.a.weight).squeeze(0) + x.mean()
        return z

    with torch.no_grad():
        assert exact(model(forward), torch.randn(3, WIDTH)).loops.trips() == ((0, 4),)
