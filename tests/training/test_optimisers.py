"""What stands between backward and the next step: accumulation, clipping, averages, optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.optimizer import Optimizer

from tests.training.loops import EXACT, EXACT_PLANS, FEW, PLANS, Task, against_eager, gradients, weights


def steps(task: Task, run: Any, module: Any, optimiser: Optimizer, count: int = 4, after: Any = None) -> list[Tensor]:
    losses = []
    for _ in range(count):
        loss = task.loss(run, module, task.batch(4))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
        if after is not None:
            after()
    return losses


@pytest.mark.parametrize(("task", "memory"), PLANS)
def test_gradients_accumulate_over_micro_batches(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        losses = []
        for _ in range(3):
            loss = task.loss(run, module, task.batch(4)) / 3
            loss.backward()
            losses.append(loss.detach())
        return losses, gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize(("task", "memory"), PLANS)
def test_clipping_sees_the_norm_of_eager(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
        norms = []
        for _ in range(3):
            optimiser.zero_grad()
            task.loss(run, module, task.batch(4)).backward()
            norms.append(nn.utils.clip_grad_norm_(run.parameters(), 0.05))
            optimiser.step()
        assert all(norm > 0.05 for norm in norms)
        return norms, weights(module)

    against_eager(task, memory, recipe)


def adamw(parameters: Iterable[Tensor], **changes: Any) -> list[Optimizer]:
    return [torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, **changes)]


def muon(parameters: Iterable[Tensor]) -> list[Optimizer]:
    """Muon for matrices, AdamW for the rest: Muon takes nothing else."""
    both = list(parameters)
    matrices, rest = [p for p in both if p.ndim == 2], [p for p in both if p.ndim != 2]
    return [torch.optim.Muon(matrices, lr=1e-3), *(adamw(rest) if rest else ())]


@pytest.mark.parametrize(
    "optimisers",
    [
        pytest.param(lambda p: adamw(p, foreach=True), id="foreach"),
        pytest.param(lambda p: adamw(p, fused=True), id="fused"),
        pytest.param(muon, id="muon"),
    ],
)
@pytest.mark.parametrize(("task", "memory"), FEW)
def test_optimisers_take_the_same_steps(task: Task, memory: Any, optimisers: Callable[..., list[Optimizer]]) -> None:
    def recipe(run: Any, module: Any) -> Any:
        first, *others = optimisers(module.parameters())
        losses = steps(task, run, module, first, after=lambda: [other.step() for other in others])
        return losses, weights(module)

    losses, _ = against_eager(task, memory, recipe)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(("task", "memory"), EXACT_PLANS[:1])
def test_gradients_are_dropped_or_zeroed(task: Task, memory: Any, set_to_none: bool) -> None:
    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad(set_to_none=set_to_none)
            task.loss(run, module, task.batch(4)).backward()
            optimiser.step()
        run.zero_grad(set_to_none=set_to_none)
        return gradients(module), weights(module)

    grads, _ = against_eager(task, memory, recipe)
    assert all(grad is None for grad in grads) is set_to_none


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_an_averaged_model_follows_and_answers(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        average = swa_utils.AveragedModel(run, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
        steps(task, run, module, optimiser, after=lambda: average.update_parameters(module))
        average.eval()
        with torch.no_grad():
            loss = task.loss(average, module, task.batch(4))
        return loss, weights(average.module), weights(module)

    _, averaged, own = against_eager(task, memory, recipe)
    assert any(not torch.equal(averaged[name], own[name]) for name in own)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_an_average_by_hand_goes_in_and_out_of_the_model(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        average = weights(module)
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)

        def follow() -> None:
            for name, value in module.named_parameters():
                average[name].lerp_(value.detach(), 0.1)

        steps(task, run, module, optimiser, after=follow)
        own = weights(module)
        run.load_state_dict(average, strict=False)
        with torch.no_grad():
            averaged = task.loss(run.eval(), module, task.batch(4))
        run.train().load_state_dict(own, strict=False)
        return averaged, steps(task, run, module, optimiser)

    against_eager(task, memory, recipe, count=2)
