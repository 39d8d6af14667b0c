"""Peers change what is kept, and leave the model what it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.training import peers
from benchmarks.training.allocator import allocated
from benchmarks.training.arms import ARMS, Missing, arm
from benchmarks.training.cases import CASES, QUICK, Case

TINY = replace(QUICK[0], config=replace(QUICK[0].config, seq_len=16, hidden_size=64, H_cycles=2, L_cycles=2), batch=2)


def trained(change: Callable[[Any], Any]) -> tuple[int, Tensor, list[Tensor]]:
    """Bytes held, logits and gradients."""
    model = TINY.model()
    run, inputs = change(model), TINY.inputs(model)
    logits: list[Tensor] = []

    def forward() -> Tensor:
        _, outputs = run(*inputs)
        logits.append(outputs["logits"].detach())
        loss: Tensor = outputs["logits"].square().mean()
        return loss

    held = allocated(forward, lambda loss: loss.backward(), "cpu").held
    return held, logits[0], [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint per block",
        "checkpoint per net call",
        "selective checkpoint: products and attention",
        "selective checkpoint: attention",
    ],
)
def test_checkpoints_keep_less_and_change_no_gradient(name: str) -> None:
    held, logits, gradients = trained(arm(name).make)
    eager_held, eager_logits, eager_gradients = trained(arm("eager").make)
    assert held < 0.7 * eager_held
    assert torch.equal(logits, eager_logits)
    assert all(torch.equal(g, e) for g, e in zip(gradients, eager_gradients, strict=True))


def test_a_selective_checkpoint_saves_what_it_is_told_to() -> None:
    everything = trained(peers.per_block)[0]
    attention = trained(lambda model: peers.per_block(model, peers.ATTENTION))[0]
    products = trained(lambda model: peers.per_block(model, (*peers.PRODUCTS, *peers.ATTENTION)))[0]
    assert everything < attention < products


def test_int8_hooks_keep_about_a_quarter_and_nearly_the_gradient() -> None:
    held, logits, gradients = trained(peers.int8_saved)
    eager_held, eager_logits, eager_gradients = trained(lambda model: model)
    assert held < 0.35 * eager_held
    assert torch.equal(logits, eager_logits)
    errors = [float((g - e).norm() / e.norm()) for g, e in zip(gradients, eager_gradients, strict=True)]
    assert 0 < max(errors) < 0.05


def test_int8_hooks_pack_a_tensor_once_however_many_operations_save_it() -> None:
    hooks = peers._Int8(least=1)
    x = torch.randn(4, 8)
    first = hooks.pack(x)
    assert hooks.pack(x) is first
    x.add_(1)
    assert hooks.pack(x) is not first
    assert hooks.pack(torch.nn.Parameter(x)).__class__ is torch.nn.Parameter
    assert (hooks.unpack(hooks.pack(x)) - x).abs().max() <= x.abs().max() / 127


def test_int8_hooks_do_not_take_a_new_tensor_for_an_old_one_at_the_same_address() -> None:
    hooks = peers._Int8(least=1)
    x = torch.zeros(1024)
    packed, address = hooks.pack(x), x.data_ptr()
    del x
    for _ in range(64):
        y = torch.ones(1024)
        if y.data_ptr() == address:
            break
    else:
        pytest.skip("the allocator gave no address twice")
    assert hooks.pack(y) is not packed


def test_an_option_that_there_is_not_is_missing_and_says_which() -> None:
    from benchmarks.training.arms import _plan

    model = TINY.model()
    with pytest.raises(Missing, match="memory='nothing'"):
        _plan(memory="nothing")(model, *TINY.inputs(model))
    with pytest.raises(Missing, match="unheard_of=1"):
        _plan(unheard_of=1)(model, *TINY.inputs(model))


def test_names_of_arms_and_cases_are_different() -> None:
    assert len({each.name for each in ARMS}) == len({each.short for each in ARMS}) == len(ARMS)
    cases: tuple[Case, ...] = (*QUICK, *CASES)
    assert len({case.name for case in cases}) == len({case.title for case in cases}) == len(cases)


def test_models_of_a_case_are_equal_and_apart() -> None:
    one, other = TINY.model(), copy.deepcopy(TINY.model())
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
