"""The allocator's count against what is known to live, for operators, autograd functions and compiled code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.training.allocator import Allocated, allocated
from tests.births import Births

ROWS, WIDTH = 64, 32
BYTES = 4 * ROWS * WIDTH


def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(ROWS, WIDTH))


def count(forward: Callable[[], Tensor]) -> Allocated:
    return allocated(forward, lambda loss: loss.backward(), "cpu")


def test_what_backward_needs_is_held_and_what_it_does_not_need_is_not() -> None:
    w = weight()
    assert count(lambda: w.exp().sum()).held == BYTES + 4
    assert count(lambda: w.exp().exp().sum()).held == 2 * BYTES + 4
    assert count(lambda: (w + w).sum()).held == 4


def test_the_peak_counts_what_is_freed_before_the_end() -> None:
    w = weight()
    found = count(lambda: (w + w).neg().neg().sum())
    assert found.held == 4
    assert 2 * BYTES <= found.peak <= 2 * BYTES + 64


def test_an_autograd_function_that_keeps_a_tensor_to_itself_is_seen() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.kept = x.clone()  # no hook on saved tensors sees this
            return x.sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.kept

    w = weight()
    assert count(lambda: Hidden.apply(w)).held == BYTES + 4  # type: ignore[no-untyped-call]


def test_operators_are_counted_as_by_weak_references() -> None:
    w = weight()

    def forward() -> Tensor:
        x = torch.nn.functional.silu(w @ w.t())
        result: Tensor = torch.nn.functional.softmax(x, -1).square().sum()
        return result

    with Births() as births:
        loss = forward()
    alive = births.alive()
    del loss
    assert count(forward).held == alive


def test_buffers_of_compiled_code_are_seen_though_no_operator_makes_them() -> None:
    """What inductor writes takes buffers by `empty_strided_cpu`, past the dispatcher."""
    w = weight()
    take: Any = torch._C._dynamo.guards._empty_strided_cpu  # type: ignore[attr-defined]

    def forward() -> Tensor:
        kept = take((ROWS, WIDTH), (WIDTH, 1), torch.float32)
        result: Tensor = (w * kept.fill_(1.0)).sum()
        return result

    with Births() as births:
        loss = forward()
    missed = births.alive()
    del loss
    found = count(forward)
    assert found.held == BYTES + 4
    assert missed == 4
