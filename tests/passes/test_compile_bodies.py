"""Planned training graphs whose bodies inductor compiles."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import laser_fx
from laser_fx.rolled import RolledLoop
from laser_fx.zoo.families.universal import UniversalTransformer
from laser_fx.zoo.trm import TRM, TRMConfig


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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on the CPU")
def test_other_graphs_of_the_program_are_not_compiled() -> None:
    module, batch = small_trm()
    eager = laser_fx.compile(module, (module.initial_carry(batch), batch), options=laser_fx.Options.exact(memory="min"))
    compiled = eager.with_options(laser_fx.Options.exact(memory="min", kernels="inductor"))
    assert any(loop.compiled_body for loop in loops_in(compiled))
    assert not any(loop.compiled_body for loop in loops_in(eager))


def small_trm() -> tuple[TRM, dict[str, torch.Tensor]]:
    sizes = {"seq_len": 9, "vocab_size": 7, "H_cycles": 3, "L_cycles": 2, "L_layers": 1, "hidden_size": 16}
    module = TRM(TRMConfig(**sizes, num_heads=2)).train()  # type: ignore[arg-type]
    batch = {"inputs": torch.ones(2, 9, dtype=torch.int64), "puzzle_identifiers": torch.zeros(2, dtype=torch.int64)}
    return module, batch


def loops_in(model: laser_fx.CompiledModel) -> list[RolledLoop]:
    return [module for module in model.graph_module.modules() if isinstance(module, RolledLoop)]
