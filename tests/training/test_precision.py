"""Autocast and scaled gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import laser_fx
from laser_fx.options import Options
from tests.training.loops import (
    CONTRACTIVE,
    EXACT_PLANS,
    FEW,
    TRM,
    Task,
    against_eager,
    compiled_task,
    gradients,
    same_to,
    weights,
)

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


@pytest.mark.parametrize(("task", "memory"), FEW[1:])
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


@pytest.mark.parametrize(("task", "memory"), FEW[1:])
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


@pytest.mark.parametrize(("task", "memory"), EXACT_PLANS[-1:])
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


@pytest.mark.parametrize("given", [False, True], ids=["at the first call", "with example inputs"])
def test_plans_are_made_under_the_autocast_of_their_program(given: bool) -> None:
    """Wherever they are asked for: what has no gradient computed in float32 here, and met segments in bfloat16."""
    module, batch, lean = TRM.model().train(), TRM.batch(4), Options.exact(memory="lean")
    with torch.autocast("cpu", torch.bfloat16):
        made = laser_fx.compile(module, (module.initial_carry(batch), batch) if given else None, options=lean)
        TRM.loss(made, module, batch)
    assert made.program.mode.autocast is torch.bfloat16
    with torch.inference_mode():
        other = made.with_options(lean)
    assert len(made._programs) == 1
    assert other.plan is not None
    assert made.plan is not None
    assert [(row.value, row.before) for row in other.plan.rows] == [(row.value, row.before) for row in made.plan.rows]


def test_compressed_sites_compute_as_autocast_asks() -> None:
    """The forward is eager's bitwise; before, a site that autocast should have cast stayed in float32."""
    for task in (CONTRACTIVE, TRM):
        made = compiled_task(task, "laser")
        batch = task.batch(16)  # of fewer rows a bfloat16 activation is smaller than a float32 basis
        with torch.autocast("cpu", torch.bfloat16):
            loss, expected = task.loss(made, made, batch), task.loss(made._model, made, batch)
        assert made.program.mode.autocast is torch.bfloat16
        assert made.program.record_names
        assert torch.equal(loss, expected)


@pytest.mark.parametrize("fidelity", [0.999, 1.0])
def test_a_low_rank_evaluation_under_autocast_has_eager_s_dtype(fidelity: float) -> None:
    module, x = CONTRACTIVE.model().eval(), CONTRACTIVE.batch(4)
    made = laser_fx.compile(module, options=Options(fidelity=fidelity, sites="all"))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output, expected = made(x), module(x)
    assert made.program.record_names
    same_to(output, expected, HALF)
