"""Hooks on parameters, tensors, modules, and on what is saved for backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.loops import (
    CONTRACTIVE,
    EXACT,
    FEW,
    TRM,
    UNIVERSAL,
    Task,
    against_eager,
    compiled,
    compiled_task,
    gradients,
    same_to,
    tolerance,
)


@pytest.mark.parametrize(("task", "memory"), FEW[1:])
def test_hooks_of_parameters_run_once_with_the_whole_gradient(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        seen: dict[str, Tensor] = {}
        for name, value in module.named_parameters():
            value.register_hook(lambda grad: 2.0 * grad)

            def after(value: Tensor, name: str = name) -> None:
                assert name not in seen
                assert value.grad is not None
                seen[name] = value.grad.clone()

            value.register_post_accumulate_grad_hook(after)
        task.loss(run, module, task.batch(4)).backward()
        return dict(sorted(seen.items())), gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


def test_hooks_of_a_parameter_that_the_loss_does_not_reach_get_none() -> None:
    """A documented difference: eager does not call them. Other outputs of the same segment do reach the loss."""
    made = compiled_task(TRM, "lean")
    weight = made.inner.q_head.weight
    seen: list[Tensor | None] = []
    weight.register_hook(seen.append)
    weight.register_post_accumulate_grad_hook(lambda value: seen.append(value.grad))
    TRM.loss(made, made, TRM.batch(4)).backward()
    assert seen == [None, None]


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_an_optimiser_inside_of_backward(task: Task, memory: Any) -> None:
    """A step as soon as a gradient is there, which is freed at once."""

    def recipe(run: Any, module: Any) -> Any:
        optimisers = {value: torch.optim.SGD([value], lr=0.1) for value in module.parameters()}

        def step(value: Tensor) -> None:
            optimisers[value].step()
            optimisers[value].zero_grad()

        for value in module.parameters():
            value.register_post_accumulate_grad_hook(step)
        losses = []
        for _ in range(3):
            loss = task.loss(run, module, task.batch(4))
            loss.backward()
            losses.append(loss.detach())
        assert all(grad is None for grad in gradients(module))
        return losses, [value.detach().clone() for value in module.parameters()]

    against_eager(task, memory, recipe)


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_hooks_of_the_input_and_of_the_output(memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        x = UNIVERSAL.batch(4).requires_grad_()
        x.register_hook(lambda grad: 3.0 * grad)
        output = run(x)
        output.register_hook(lambda grad: 0.5 * grad)
        output.retain_grad()
        output.square().sum().backward()
        return x.grad, output.grad, gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=2)


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_backward_hooks_of_the_compiled_model(memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        seen = []
        handle = run.register_full_backward_hook(lambda _, inputs, outputs: seen.append((inputs[0], outputs[0])))
        run(UNIVERSAL.batch(4).requires_grad_()).square().sum().backward()
        handle.remove()
        assert len(seen) == 1
        return seen[0], gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=2)


def test_backward_hooks_of_a_submodule_leave_the_call_to_the_model() -> None:
    """A graph has no place for them: such calls run in eager, at eager's cost."""
    module, x = UNIVERSAL.model().train(), UNIVERSAL.batch(4)
    made, seen = compiled(module, "lean"), []
    module.block.up.register_full_backward_hook(lambda *_: seen.append(1))
    made(x).sum().backward()
    assert len(seen) == module.steps
    assert len(made._programs) == 0


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_what_is_saved_may_be_packed(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        batch = task.batch(4)
        with torch.autograd.graph.save_on_cpu():
            first = task.loss(run, module, batch)
        with torch.autograd.graph.saved_tensors_hooks(lambda value: value.detach().clone(), lambda kept: kept):
            second = task.loss(run, module, batch)
        (first + second).backward()
        return gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_hooks_on_saved_tensors_see_nothing_of_compiling(memory: Any) -> None:
    task = CONTRACTIVE
    module, x = task.model().train(), task.batch(4)
    made = compiled(module, memory)
    counts = []
    for _ in range(2):  # the first call compiles
        packed: list[Tensor] = []

        def pack(value: Tensor, packed: list[Tensor] = packed) -> Tensor:
            packed.append(value.detach())
            return packed[-1]

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            loss = task.loss(made, module, x)
        counts.append(len(packed))
        assert not any(value.is_meta or type(value) is not Tensor for value in packed)
        module.zero_grad()
        loss.backward()
    assert counts[0] == counts[1] > 0
    found = gradients(module)
    module.zero_grad()
    task.loss(module, module, x).backward()
    same_to(found, gradients(module), tolerance(memory, EXACT))
