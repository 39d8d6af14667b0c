"""Ways to run backward: twice, twice differentiated, in another thread, for some inputs, under checkpointing."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from laser_fx.compiler import CompiledModel
from laser_fx.errors import InputError
from tests.training.loops import (
    CONTRACTIVE,
    EXACT,
    EXACT_PLANS,
    FEW,
    UNIVERSAL,
    Task,
    against_eager,
    compiled,
    compiled_task,
    gradients,
    same_to,
    tolerance,
)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_a_graph_that_is_kept_runs_twice_and_one_that_is_not_says_so(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        loss = task.loss(run, module, task.batch(4))
        loss.backward(retain_graph=True)
        once = gradients(module)
        loss.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            loss.backward()
        return once, gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_second_derivatives_are_refused_with_the_way_out(memory: Any) -> None:
    made = compiled_task(CONTRACTIVE, memory)
    loss = CONTRACTIVE.loss(made, made, CONTRACTIVE.batch(4))
    with pytest.raises(InputError, match="create_graph") as raised:
        torch.autograd.grad(loss, list(made.parameters()), create_graph=True)
    assert str(raised.value.where).startswith("backward of ")
    assert "memory=None" in str(raised.value.fix)


def test_second_derivatives_are_those_of_eager_without_a_plan() -> None:
    module = CONTRACTIVE.model()
    x = CONTRACTIVE.batch(4)

    def penalty(run: Any) -> list[Tensor | None]:
        module.zero_grad()
        found = torch.autograd.grad(CONTRACTIVE.loss(run, run, x), list(module.parameters()), create_graph=True)
        torch.stack([grad.square().sum() for grad in found]).sum().backward()
        return gradients(module)

    same_to(penalty(compiled(module, None)), penalty(module), EXACT)


@pytest.mark.parametrize(("task", "memory"), FEW)
def test_backward_in_another_thread(task: Task, memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        loss = task.loss(run, module, task.batch(4))
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        return gradients(module)

    against_eager(task, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize("memory", ["lean", "laser"])
def test_several_threads_compile_and_train_models_of_their_own(memory: Any) -> None:
    task = CONTRACTIVE
    x = task.batch(4)
    models = [task.model().train() for _ in range(3)]
    runs = [compiled(module, memory) for module in models]

    def steps(run: CompiledModel) -> None:
        for _ in range(2):
            run.zero_grad()
            task.loss(run, run, x).backward()

    threads = [threading.Thread(target=steps, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for module in models:
        found = gradients(module)
        module.zero_grad()
        task.loss(module, module, x).backward()
        same_to(found, gradients(module), tolerance(memory, EXACT))


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_gradients_of_some_inputs_alone(memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        x, parameters = UNIVERSAL.batch(4).requires_grad_(), list(module.parameters())

        def loss() -> Tensor:
            return UNIVERSAL.loss(run, module, x)

        both = torch.autograd.grad(loss(), [parameters[3], x])
        of_input = torch.autograd.grad(loss(), [x])
        loss().backward(inputs=[parameters[1]])
        assert x.grad is None
        return both, of_input, gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT, count=2)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("task", "memory"), FEW)
def test_checkpointing_around_it(task: Task, memory: Any, reentrant: bool) -> None:
    def recipe(run: Any, module: Any) -> Any:
        x = torch.ones((), requires_grad=True)  # for reentrant checkpointing, which asks for an input with a gradient
        batch = task.batch(4)

        def forward(x: Tensor) -> Tensor:
            return task.loss(run, module, batch) * x

        loss = checkpoint(forward, x, use_reentrant=reentrant)
        loss.backward()
        return loss.detach(), gradients(module), x.grad

    against_eager(task, memory, recipe, of_exact=EXACT, count=1 + reentrant)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_the_first_call_of_all_may_be_under_checkpointing(memory: Any) -> None:
    module, x = CONTRACTIVE.model().train(), CONTRACTIVE.batch(4)
    made = compiled(module, memory)
    checkpoint(made, x, use_reentrant=False).sum().backward()
    found = gradients(module)
    module.zero_grad()
    module(x).sum().backward()
    same_to(found, gradients(module), tolerance(memory, EXACT))


def test_the_first_call_of_all_may_be_under_selective_checkpointing() -> None:
    """Which looks at every operator that runs."""
    module, x = UNIVERSAL.model().train(), UNIVERSAL.batch(4)
    made = compiled(module, 0.3)

    def keep(_: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        is_product = operator in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE

    context = partial(create_selective_checkpoint_contexts, keep)
    checkpoint(made, x, use_reentrant=False, context_fn=context).sum().backward()
    found = gradients(module)
    module.zero_grad()
    module(x).sum().backward()
    same_to(found, gradients(module), EXACT)


@pytest.mark.parametrize(("task", "memory"), [*EXACT_PLANS[-1:], FEW[-1]])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_search_for_anomalies_is_let_through(task: Task, memory: Any) -> None:
    module = task.model().train()
    made, x = compiled(module, memory), task.batch(4)
    with torch.autograd.detect_anomaly():
        task.loss(made, module, x).backward()
    found = gradients(module)
    module.zero_grad()
    task.loss(module, module, x).backward()
    same_to(found, gradients(module), tolerance(memory, EXACT))
