"""Batches of other sizes and layouts, and evaluation between the steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from tests.training.loops import (
    CONTRACTIVE,
    EXACT,
    EXACT_PLANS,
    FEW,
    TRM,
    UNIVERSAL,
    Task,
    against_eager,
    compiled_task,
    gradients,
    weights,
)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_batches_of_any_size_are_trained_on(task: Task, memory: Any) -> None:
    """The last one of an epoch is smaller, and one row is a program of its own."""

    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        losses = []
        for size in (4, 7, 1, 4):
            optimiser.zero_grad()
            loss = task.loss(run, module, task.batch(size))
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return losses, weights(module)

    against_eager(task, memory, recipe, count=2)


def test_a_budget_is_the_same_share_of_any_batch() -> None:
    memory = 0.3
    made = compiled_task(TRM, memory)
    for size in (4, 2, 16):
        TRM.loss(made, made, TRM.batch(size)).backward()
        assert made.plan is not None
        assert made.plan.fraction <= memory


@pytest.mark.parametrize(
    ("task", "memory", "evaluation"),
    [
        pytest.param(*plan.values, evaluation, id=f"{plan.id}-{evaluation.__name__}")
        for plan, evaluation in zip(FEW, (torch.no_grad, torch.inference_mode, torch.no_grad), strict=True)
    ],
)
def test_evaluation_between_steps_changes_nothing(
    task: Task, memory: Any, evaluation: Callable[[], AbstractContextManager[Any]]
) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
        losses = []
        for _ in range(3):
            optimiser.zero_grad()
            loss = task.loss(run, module, task.batch(4))
            loss.backward()
            optimiser.step()
            run.eval()
            with evaluation():
                seen = task.loss(run, module, task.batch(5))
            run.train()
            losses += [loss.detach(), seen.clone()]
        return losses, weights(module)

    against_eager(task, memory, recipe, count=2)


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_a_batch_that_is_not_contiguous_has_the_gradients_of_eager(memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        x = torch.randn(5, 16, 4).permute(2, 0, 1).requires_grad_()
        assert not x.is_contiguous()
        loss = UNIVERSAL.loss(run, module, x)
        loss.backward()
        assert x.grad is not None
        return loss.detach(), gradients(module), x.grad

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=2)


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_strides_that_are_no_permutation_are_taken(memory: Any) -> None:
    """Every second row, and one row seen four times."""

    def recipe(run: Any, module: Any) -> Any:
        wide = torch.randn(8, 5, 16)
        losses = [UNIVERSAL.loss(run, module, x) for x in (wide[::2], wide[:1].expand(4, -1, -1))]
        torch.stack(losses).sum().backward()
        return torch.stack(losses).detach(), gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=3)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_a_batch_without_rows_gives_zeros_as_in_eager(memory: Any) -> None:
    task = CONTRACTIVE if memory == "laser" else UNIVERSAL
    made = compiled_task(task, memory)
    x = task.batch(4)[:0].requires_grad_()
    output = made(x)
    output.sum().backward()
    assert output.shape == x.shape
    assert x.grad is not None
    assert x.grad.shape == x.shape
    found = gradients(made)
    made.zero_grad()
    made._model(x).sum().backward()
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in found if grad is not None)
    assert [grad is None for grad in found] == [grad is None for grad in gradients(made)]


@pytest.mark.parametrize(("task", "memory"), EXACT_PLANS[:1])
def test_sequences_without_rows_are_an_epoch_s_end_too(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        batch = task.batch(0)
        _, outputs = run(module.initial_carry(batch), batch)
        (outputs["logits"].sum() + task.loss(run, module, task.batch(4))).backward()
        return gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT, count=2)
