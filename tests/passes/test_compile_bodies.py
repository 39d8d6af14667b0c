"""Planned training graphs whose bodies inductor compiles."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import laser_fx
from laser_fx.zoo.families.universal import UniversalTransformer


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
def test_compiled_bodies_train_as_eager_to_rounding() -> None:
    torch.manual_seed(0)
    module, x = UniversalTransformer(), torch.randn(4, 5, 16)
    twin = copy.deepcopy(module)
    made = laser_fx.compile(module, (x,), options=laser_fx.Options.exact(memory="min", kernels="inductor"))
    result, expected = made(x), twin(x)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    result.square().mean().backward()
    expected.square().mean().backward()
    for mine, theirs in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    plan = made.plan
    assert plan is not None
    assert plan.fraction < 0.5
