"""Compiling draws no random number: a run with dropout, or with batches that are drawn, is eager's from the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laser_fx.memory import costs, products
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
