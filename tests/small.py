"""Small recursive models for tests, and what several tests ask of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import laser_fx
from laser_fx.call import flatten_call
from laser_fx.capture import capture
from laser_fx.captured import Captured
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options
from laser_fx.passes.detect import detect
from laser_fx.passes.normalise import Block, View, normalise
from laser_fx.passes.pipeline import _identities
from laser_fx.zoo.trm import TRM, Batch, TRMConfig

WIDTH = 8


class Parts(nn.Module):
    """The weights that small models are made of; a model adds its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.b = nn.Linear(WIDTH, WIDTH, bias=False)
        self.untied = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.rows = nn.Parameter(torch.randn(6, WIDTH))
        self.start = nn.Parameter(torch.randn(WIDTH))
        self.dropout = nn.Dropout(0.5)


def model(forward: Callable[..., Any]) -> nn.Module:
    """A model of `Parts` with this forward, in evaluation mode."""
    return type(forward.__name__, (Parts,), {"forward": forward})().eval()


def step(self: Any, z: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(self.a(z) + x)


def looped(trips: int = 4) -> nn.Module:
    def looped(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(trips):
            z = step(self, z, x)
        return z

    return model(looped)


class Contractive(nn.Module):
    """A loop with a wide inner activation that settles, as trained ones do: its activations have low rank."""

    def __init__(self, trips: int = 6, features: int = 32, wide: int = 96) -> None:
        super().__init__()
        self.trips = trips
        self.up, self.down = nn.Linear(features, wide), nn.Linear(wide, features)
        with torch.no_grad():
            self.up.weight.mul_(0.5)
            self.down.weight.mul_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(self.trips):
            z = x + self.down(torch.nn.functional.silu(self.up(z + x)))
        return z


class Counting(Contractive):
    """Carries whole numbers beside its state."""

    def forward(self, x: Tensor) -> Any:
        z, count = x, torch.zeros(x.shape[0], dtype=torch.int64)
        for _ in range(4):
            z, count = x + self.down(torch.tanh(self.up(z))), count + z.argmax(-1)
        return z, count


class StructuredContractive(Contractive):
    """The same loop, written as one; it also returns every state's mean."""

    def forward(self, x: Tensor) -> Any:
        def body(i: Tensor, z: Tensor) -> Any:
            z = x + self.down(torch.nn.functional.silu(self.up(z + x)))
            return z, z.mean(-1)

        return laser_fx.loop(body, torch.zeros_like(x), self.trips, collect=True)


def low_rank(*shape: int, rank: int = 4, noise: float = 1e-3) -> Tensor:
    """Gaussian rows in a random subspace of ``rank`` dimensions, and a little noise."""
    return torch.randn(*shape[:-1], rank) @ torch.randn(rank, shape[-1]) + noise * torch.randn(shape)


def small_trm(**changes: Any) -> TRM:
    sizes = {"H_cycles": 2, "L_cycles": 2, "L_layers": 1, "hidden_size": 16, "num_heads": 2, "expansion": 2}
    config = TRMConfig(seq_len=9, vocab_size=7, halt_exploration_prob=0.0, **{**sizes, **changes})
    return TRM(config).eval()


def trm_batch(size: int) -> Batch:
    return {"inputs": torch.randint(1, 7, (size, 9)), "puzzle_identifiers": torch.zeros(size, dtype=torch.int64)}


def same(left: Any, right: Any) -> bool:
    """Whether two results are one tree of bitwise equal leaves."""
    (a, a_spec), (b, b_spec) = pytree.tree_flatten(left), pytree.tree_flatten(right)
    return a_spec == b_spec and all(_same_leaf(x, y) for x, y in zip(a, b, strict=True))


def _same_leaf(x: Any, y: Any) -> bool:
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return bool(x == y)
    return x.dtype == y.dtype and torch.equal(x, y)


def backward(run: Callable[..., Any], module: nn.Module, *inputs: Tensor) -> tuple[Any, list[Tensor | None]]:
    """The output of a call, detached, and the gradients of the sum of its squares, of inputs and parameters."""
    torch.manual_seed(7)  # for dropout
    module.zero_grad()
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    output = run(*leaves)
    results = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]
    torch.stack([t.square().sum() for t in results if t.requires_grad]).sum().backward()
    grads = [t.grad for t in (*leaves, *module.parameters())]
    detached = pytree.tree_map_only(Tensor, torch.detach, output)
    return detached, [g if g is None else g.clone() for g in grads]


def exact(module: nn.Module, *inputs: Any) -> CompiledModel:
    """Compiled without changing a number, for inference unless the module trains."""
    compiled = laser_fx.compile(module, options=Options.exact())
    with torch.set_grad_enabled(module.training):
        compiled(*inputs)
    return compiled


def captured(module: nn.Module, *inputs: Any) -> Captured:
    return capture(module, flatten_call(inputs, {}), grad_enabled=module.training)


def viewed(module: nn.Module, *inputs: Any) -> tuple[Captured, View]:
    graph = captured(module, *inputs)
    parameters = {name for name, _ in module.named_parameters()}
    holders = frozenset(name for name, target in graph.states.items() if target in parameters)
    identities = _identities(module, graph)
    return graph, normalise(graph.graph_module.graph, identities, holders, graph.grad_enabled)


def found(module: nn.Module, *inputs: Any) -> tuple[Captured, View, Block]:
    graph, view = viewed(module, *inputs)
    return graph, view, detect(view)
