"""How long the passes take on long unrolled graphs: it must grow with the number of nodes, not with its square.

`pytest benchmarks/test_passes.py` prints µs a node for each pass and length, as ``us_per_node`` of its extra info.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laser_fx.capture import GRAD_ENABLED
from laser_fx.passes.certificate import certify
from laser_fx.passes.detect import detect
from laser_fx.passes.normalise import normalise
from laser_fx.passes.reroll import reroll

aten = torch.ops.aten
LENGTHS = (1_000, 10_000, 50_000)
INNER_TRIPS = 6
STATES = {"p_up": "up.weight", "p_down": "down.weight"}
WIDTH = 16


class Chain:
    """An unrolled nest by hand: outer steps of six inner steps and an update, as a captured graph has them."""

    def __init__(self, length: int) -> None:
        self.graph = fx.Graph()
        with FakeTensorMode():
            self.value, self.weight = torch.empty(4, WIDTH), torch.empty(WIDTH, WIDTH)
        up, down = (self.placeholder(name, self.weight) for name in STATES)
        x, h = self.placeholder("in_x", self.value), self.placeholder("in_h", self.value)
        z = h
        self.trips = 0
        while len(self.graph.nodes) < length:
            for _ in range(INNER_TRIPS):
                z = self.layer(self.call(aten.add.Tensor, z, self.call(aten.add.Tensor, h, x)), up, down)
            h = self.layer(self.call(aten.add.Tensor, h, z), up, down)
            self.trips += 1
        self.graph.output((h, z))
        self.graph_module = fx.GraphModule(torch.nn.Module(), self.graph)

    def layer(self, z: fx.Node, up: fx.Node, down: fx.Node) -> fx.Node:
        inner = self.call(aten.silu.default, self.call(aten.linear.default, z, up))
        mixed = self.call(aten.linear.default, self.call(aten.mul.Tensor, inner, z), down)
        return self.call(aten.tanh.default, self.call(aten.add.Tensor, z, self.call(aten.detach.default, mixed)))

    def call(self, target: Any, *args: fx.Node) -> fx.Node:
        return self.described(self.graph.call_function(target, args), self.value)

    def placeholder(self, name: str, value: torch.Tensor) -> fx.Node:
        return self.described(self.graph.placeholder(name), value)

    def described(self, node: fx.Node, value: torch.Tensor) -> fx.Node:
        node.meta = {"val": value, GRAD_ENABLED: False}
        return node


@pytest.fixture(scope="module")
def chains() -> dict[int, Chain]:
    return {length: Chain(length) for length in LENGTHS}


def passes(chain: Chain) -> dict[str, Callable[[], Any]]:
    """Each pass alone, on what the passes before it made."""
    identities = {name: name for name in STATES}
    captured = chain.graph_module
    view = normalise(captured.graph, identities, frozenset(STATES), False)
    block = detect(view)
    rolled = reroll(captured, view, block, STATES, False)
    assert rolled.nest.trips() == ((0, chain.trips), (1, INNER_TRIPS))
    return {
        "normalise": lambda: normalise(captured.graph, identities, frozenset(STATES), False),
        "detect": lambda: detect(view),
        "reroll": lambda: reroll(captured, view, block, STATES, False),
        "certify": lambda: certify(captured, rolled.graph_module, identities, frozenset(STATES), False),
    }


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["normalise", "detect", "reroll", "certify"])
def test_time_of_a_pass(benchmark: Any, chains: dict[int, Chain], name: str, length: int) -> None:
    run = passes(chains[length])[name]
    benchmark.pedantic(run, rounds=2)
    nodes = len(chains[length].graph.nodes)
    benchmark.extra_info["us_per_node"] = round(benchmark.stats.stats.min * 1e6 / nodes, 1)
