"""What a cut keeps: the least bytes at a price of time."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from laser_fx.memory.choose import choose
from laser_fx.memory.flow import Network
from laser_fx.memory.joint import form_of, trace_joint
from laser_fx.memory.operators import whole
from laser_fx.memory.values import Values, ancestors


def values_of(segment: Any, *inputs: Tensor) -> Values:
    joint = trace_joint(segment, [form_of(x, True) for x in inputs], None)
    return Values(joint, ("each",) * len(inputs), trips=1)


def swiglu(x: Tensor, weight: Tensor) -> tuple[Tensor]:
    gate, up = torch.nn.functional.linear(x, weight).chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up,)


def test_pointwise_results_are_made_again_and_a_pinned_product_is_kept() -> None:
    values = values_of(swiglu, torch.randn(64, 4), torch.randn(16, 4))
    products = {node.name for node in values.forward if node.target is torch.ops.aten.mm.default}
    made = [node for node in choose(values, 0.0, pinned=products) if node.op != "placeholder"]
    assert [str(node.target) for node in made] == ["aten.mm.default"]


def test_an_output_that_backward_does_not_read_is_not_kept() -> None:
    values = values_of(swiglu, torch.randn(64, 4), torch.randn(16, 4))
    assert not set(values.joint.outputs) & set(values.needed)


def test_under_a_tight_budget_the_product_is_made_again_too() -> None:
    values = values_of(swiglu, torch.randn(64, 4), torch.randn(16, 4))
    kept = choose(values, 0.0)
    assert all(node.op == "placeholder" for node in kept)


def test_attention_that_drops_nothing_is_made_again() -> None:
    def attention(x: Tensor) -> tuple[Tensor]:
        q = x * 2
        return (torch.nn.functional.scaled_dot_product_attention(q, q, q),)

    values = values_of(attention, torch.randn(2, 2, 8, 4))
    assert values.joint.outputs[0] in values.needed
    assert values.joint.outputs[0] not in choose(values, 0.0)


def test_where_time_is_dear_nothing_is_made_again() -> None:
    values = values_of(swiglu, torch.randn(64, 4), torch.randn(16, 4))
    kept = set(choose(values, 2.0**16))
    assert not [node for node in ancestors(values.needed, kept) & values.forward if values.time(node)]


@pytest.mark.parametrize("price", [0.0, 0.01, 0.1, 1.0, 10.0])
def test_no_other_choice_is_cheaper(price: float) -> None:
    """Against every subset of the values of a small graph."""

    def segment(x: Tensor, w: Tensor) -> tuple[Tensor]:
        return (torch.tanh((x @ w).exp() * x),)

    values = values_of(segment, torch.randn(8, 8), torch.randn(8, 8))
    candidates = [node for node in values.forward if whole(node) is node]
    every = itertools.chain.from_iterable(
        itertools.combinations(candidates, count) for count in range(len(candidates) + 1)
    )
    best = min(cost for kept in every if (cost := cost_of(values, set(kept), price)) is not None)
    assert cost_of(values, set(choose(values, price)), price) == best


def cost_of(values: Values, kept: set[Any], price: float) -> int | None:
    """Bytes and priced time of a choice; None if backward cannot be made of it."""
    again = ancestors(values.needed, kept)
    if any(node.op == "placeholder" for node in again):
        return None
    time = sum(1 + int(price * values.time(node)) for node in again if values.time(node))
    return time + sum(values.weight(node) for node in kept)


def test_a_cut_is_least_on_random_networks() -> None:
    chance = random.Random(0)
    for _ in range(50):
        edges = {(a, b): chance.randrange(9) for a in range(6) for b in range(6) if a != b and chance.random() < 0.5}
        network = Network()
        for (a, b), room in edges.items():
            network.connect(a, b, room)
        network.connect(0, 5, 1)
        edges[0, 5] = edges.get((0, 5), 0) + 1
        inner = [set(s) | {0} for n in range(5) for s in itertools.combinations(range(1, 5), n)]
        least = min(crossing(edges, side) for side in inner)
        side = network.source_side(0, 5)
        assert 5 not in side
        assert crossing(edges, side) == least


def crossing(edges: dict[tuple[int, int], int], side: set[Any]) -> int:
    return sum(room for (a, b), room in edges.items() if a in side and b not in side)
