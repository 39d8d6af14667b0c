"""Deep supervision: several calls on one batch, with carries from call to call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.nn import functional as F

from laser_fx.zoo.trm import Batch
from tests.small import small_trm, trm_batch
from tests.training.loops import EXACT, EXACT_PLANS, TRM, UNIVERSAL, Task, against_eager, gradients, weights

FULL = Task(lambda: small_trm(L_cycles=2, full_gradient=True), trm_batch, TRM.loss)
TRM_PLANS = [*EXACT_PLANS[:3], pytest.param(FULL, "lean", id="full-lean"), pytest.param(TRM, "laser", id="trm-laser")]
THREE = 3


def answer_loss(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    """Of the answer and of the halting head, as the published loop has it."""
    right = (outputs["logits"].argmax(-1) == batch["inputs"]).all(-1)
    return F.cross_entropy(outputs["logits"].flatten(0, 1), batch["inputs"].flatten()) + (
        0.5 * F.binary_cross_entropy_with_logits(outputs["q_halt_logits"], right.to(torch.float32))
    )


@pytest.mark.parametrize(("task", "memory"), TRM_PLANS)
def test_an_optimiser_step_at_every_supervision_step(task: Task, memory: Any) -> None:
    """The carry is passed on without its history, and finished rows are replaced inside of the model."""

    def recipe(run: Any, module: Any) -> Any:
        optimiser = torch.optim.AdamW(module.parameters(), lr=1e-3)
        batch, losses = task.batch(4), []
        carry = module.initial_carry(batch)
        for _ in range(THREE):
            carry, outputs = run(carry, batch)
            carry = pytree.tree_map_only(Tensor, torch.detach, carry)
            loss = answer_loss(outputs, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return losses, weights(module), carry.inner_carry.z_H

    against_eager(task, memory, recipe)


@pytest.mark.parametrize(("task", "memory"), TRM_PLANS)
def test_steps_that_are_summed_into_one_loss(task: Task, memory: Any) -> None:
    """All graphs are held until the one backward."""

    def recipe(run: Any, module: Any) -> Any:
        batch, losses = task.batch(4), []
        carry = module.initial_carry(batch)
        for _ in range(THREE):
            carry, outputs = run(carry, batch)
            carry = pytree.tree_map_only(Tensor, torch.detach, carry)
            losses.append(answer_loss(outputs, batch))
        torch.stack(losses).sum().backward()
        return torch.stack(losses).detach(), gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_gradients_flow_from_call_to_call(memory: Any, retain: bool) -> None:
    """The state comes in with a gradient at the second call: a program of its own."""

    def recipe(run: Any, module: Any) -> Any:
        state, losses = UNIVERSAL.batch(4), []
        for _ in range(THREE):
            state = run(state)
            losses.append((state - 1.0).square().mean())
            if retain:
                losses[-1].backward(retain_graph=True)
        if not retain:
            torch.stack(losses).sum().backward()
        return torch.stack(losses).detach(), gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=2)
