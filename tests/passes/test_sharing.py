"""An activation that something else keeps is left as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from laser_fx.passes.sharing import saved_elsewhere

WEIGHT = torch.randn(4, 8)


def site(function: Callable[[Tensor], object]) -> fx.Node:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor) -> object:
            return function(x)

    graph = torch.export.export(Model(), (torch.randn(2, 3, 8),), strict=False).graph
    return next(n for n in graph.nodes if n.target is torch.ops.aten.linear.default)


def product(x: Tensor) -> Tensor:
    return F.linear(F.silu(x) * x, WEIGHT)


def residual(x: Tensor) -> Tensor:
    y = x + 1
    return F.linear(y, WEIGHT) + y[..., :4]


def attention(x: Tensor) -> Tensor:
    heads = x.unsqueeze(1)
    return F.linear(F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 3, 8), WEIGHT)


def gated(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x + 1
    return F.linear(y, WEIGHT), y.view(6, 8) * 2


@pytest.mark.parametrize("function", [product, residual])
def test_an_activation_that_only_the_linear_keeps_is_its_own(function: Callable[[Tensor], object]) -> None:
    assert saved_elsewhere(site(function)) is None


@pytest.mark.parametrize(("function", "reason"), [(attention, "keeps its result"), (gated, "mul keeps it too")])
def test_an_activation_that_is_kept_besides_is_told(function: Callable[[Tensor], object], reason: str) -> None:
    assert reason in str(saved_elsewhere(site(function)))


def test_two_linears_keep_the_same_activation_for_each_other() -> None:
    def both(x: Tensor) -> Tensor:
        y = x + 1
        return F.linear(y, WEIGHT) + F.linear(y, 2 * WEIGHT)

    assert "keeps it too" in str(saved_elsewhere(site(both)))
