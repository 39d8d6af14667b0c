"""Bases that are kept from call to call: `Options(memory="laser", tracking=…)` with ``"segment"`` or ``"position"``."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import InputError, NonFiniteError
from laser_fx.options import Options
from tests.small import low_rank
from tests.training.loops import CONTRACTIVE, gradients, same_to, tolerance

KINDS = ["segment", "position"]


@cache
def _once(tracking: Any) -> CompiledModel:
    torch.manual_seed(0)
    module = CONTRACTIVE.model().train()
    made = laser_fx.compile(module, options=Options.exact(memory="laser", tracking=tracking, reset_alarm=1.0))
    train(made, CONTRACTIVE.batch(4))
    return made


def kept(tracking: Any) -> CompiledModel:
    """A model of its own, after one call."""
    return copy.deepcopy(_once(tracking))


def train(made: CompiledModel, x: Tensor) -> list[Tensor | None]:
    made.zero_grad()
    CONTRACTIVE.loss(made, made, x).backward()
    return gradients(made)


def state(made: CompiledModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.bases.state_dict().items()}


@pytest.mark.parametrize("tracking", KINDS)
def test_a_copy_goes_on_from_the_bases_of_the_original_with_bases_of_its_own(tracking: Any) -> None:
    first, second = kept(tracking), kept(tracking)
    x = CONTRACTIVE.batch(4)
    assert state(first)
    same_to(state(second), state(first), 0.0)
    before = state(second)
    for _ in range(2):
        train(first, low_rank(4, 32, 32, rank=12))
    same_to(state(second), before, 0.0)
    same_to(train(second, x), train(kept(tracking), x), 0.0)


@pytest.mark.parametrize("tracking", KINDS)
def test_autocast(tracking: Any) -> None:
    made, x = kept(tracking), CONTRACTIVE.batch(4)
    for _ in range(2):
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss, expected = (CONTRACTIVE.loss(run, made, x) for run in (made, made._model))
        assert torch.equal(loss, expected)
        loss.backward()
    found = gradients(made)
    made.zero_grad()
    expected.backward()
    same_to(found, gradients(made), tolerance("laser"))


@pytest.mark.parametrize("tracking", KINDS)
def test_checkpointing_around_it_is_refused_unless_it_is_reentrant(tracking: Any) -> None:
    """What is run again would find other bases than the first run; reentrant, the first run keeps nothing."""
    made, x = kept(tracking), CONTRACTIVE.batch(4)
    with pytest.raises(InputError, match="checkpoint") as raised:
        checkpoint(made, x, use_reentrant=False)
    assert "tracking='step'" in str(raised.value.fix)
    made.zero_grad()
    checkpoint(made, x.requires_grad_(), use_reentrant=True).square().sum().backward()
    found = gradients(made)
    made.zero_grad()
    made._model(x).square().sum().backward()
    same_to(found, gradients(made), tolerance("laser"))


@pytest.mark.parametrize("tracking", KINDS)
def test_a_call_that_fails_names_the_cause_and_leaves_the_bases(tracking: Any) -> None:
    made, x = kept(tracking), CONTRACTIVE.batch(4)
    expected, before = train(kept(tracking), x), state(made)
    spoilt = x.clone()
    spoilt[1, 2, 3] = float("nan")
    with pytest.raises(NonFiniteError) as raised:
        made(spoilt)
    assert raised.value.where == "input x"
    with torch.no_grad():
        made.down.weight.mul_(1e15)
    with pytest.raises(NonFiniteError) as raised:
        made(x)
    assert str(raised.value.where).startswith("loop_0:")
    assert "step" in str(raised.value.where)
    with torch.no_grad():
        made.load_state_dict(kept(tracking).state_dict())
    same_to(state(made), before, 0.0)
    same_to(train(made, x), expected, 0.0)


@pytest.mark.parametrize("tracking", KINDS)
def test_a_run_goes_on_bitwise_with_the_bases_in_its_checkpoint(tracking: Any) -> None:
    def go_on(made: CompiledModel, optimiser: torch.optim.Optimizer) -> list[float]:
        losses = []
        torch.manual_seed(5)
        for _ in range(3):
            optimiser.zero_grad()
            loss = CONTRACTIVE.loss(made, made, CONTRACTIVE.batch(4))
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    made = kept(tracking)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2)
    go_on(made, optimiser)
    weights, of_optimiser, bases = copy.deepcopy((made.state_dict(), optimiser.state_dict(), state(made)))
    expected = go_on(made, optimiser)

    resumed = kept(tracking)
    train(resumed, low_rank(4, 32, 32, rank=9))  # bases of something else
    resumed.load_state_dict(weights)
    resumed.bases.load_state_dict(bases)
    its_optimiser = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    its_optimiser.load_state_dict(of_optimiser)
    assert go_on(resumed, its_optimiser) == expected


@pytest.mark.parametrize("tracking", KINDS)
def test_batches_of_any_size_and_kept_graphs(tracking: Any) -> None:
    made = kept(tracking)
    for size in (4, 7, 1):
        x = CONTRACTIVE.batch(size)
        made.zero_grad()
        loss = CONTRACTIVE.loss(made, made, x)
        loss.backward(retain_graph=True)
        found = gradients(made)
        CONTRACTIVE.loss(made, made, CONTRACTIVE.batch(4))  # another call, whose bases are other ones
        made.zero_grad()
        loss.backward()
        same_to(gradients(made), found, 0.0)
        made.zero_grad()
        CONTRACTIVE.loss(made._model, made, x).backward()
        same_to(found, gradients(made), tolerance("laser"))
