"""Autocast and scaled gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.training.loops import EXACT_PLANS, FEW, Task, against_eager, gradients, weights

HALF = 2e-2
"""A product in bfloat16 has eight bits; one that is made again may be summed in another order."""


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_autocast_in_bfloat16(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            loss = task.loss(run, module, task.batch(4))
        loss.backward()
        return loss.detach(), gradients(module)

    against_eager(task, memory, recipe, of_exact=HALF, count=2)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_autocast_may_be_on_at_some_steps_and_off_at_others(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        losses = []
        for on in (True, False, True):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=on):
                loss = task.loss(run, module, task.batch(4))
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return losses, weights(module)

    against_eager(task, memory, recipe, of_exact=HALF, count=2)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_scaled_gradients_in_float16(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        losses = []
        for _ in range(3):
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = task.loss(run, module, task.batch(4))
            scaler.scale(loss).backward()
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            scaler.step(optimiser)
            scaler.update()
            losses.append(loss.detach())
        assert scaler.get_scale() == 2.0**10
        return losses, weights(module)

    against_eager(task, memory, recipe, of_exact=HALF, count=2)


@pytest.mark.parametrize(("task", "memory"), EXACT_PLANS[:1])
def test_a_step_whose_gradients_overflow_is_skipped_as_in_eager(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
        before = weights(module)
        with torch.autocast("cpu", torch.float16):
            loss = task.loss(run, module, task.batch(4))
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        after = weights(module)
        assert all(torch.equal(before[name], after[name]) for name in before)
        return torch.tensor(scaler.get_scale()), after

    scale, _ = against_eager(task, memory, recipe, count=2)
    assert scale == 2.0**125
