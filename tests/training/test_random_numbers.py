"""Compiling draws no random number: a run with dropout, or with batches that are drawn, is eager's from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import laser_fx
from laser_fx.memory import costs, products
from tests.small import model
from tests.training.loops import CONTRACTIVE, compiled


@pytest.mark.parametrize("memory", ["lean", 0.3, "min", "laser"])
def test_the_first_call_leaves_the_generator_where_eager_leaves_it(memory: Any) -> None:
    task = CONTRACTIVE
    costs._table.clear()  # what was timed before would not be timed again
    products._wins.cache_clear()
    module = task.model().train()
    made, batch = compiled(module, memory), task.batch(4)
    before = torch.get_rng_state()
    task.loss(made, module, batch).backward()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("memory", ["lean", "min"])
def test_dropout_of_what_is_not_contiguous_drops_what_eager_drops(memory: Any) -> None:
    def dropping(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = torch.tanh(self.a(self.dropout(z)) + x)
        return z

    module, x = model(dropping).train(), torch.randn(8, 6).t()
    made = laser_fx.compile(module, (x,), options=laser_fx.Options.exact(memory=memory))
    results = []
    for run in (module, made):
        torch.manual_seed(1)
        module.zero_grad()
        output = run(x)
        output.square().sum().backward()
        results.append((output.detach(), module.a.weight.grad.clone()))
    (expected, expected_gradient), (found, gradient) = results
    assert torch.equal(found, expected)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
