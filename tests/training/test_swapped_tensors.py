"""Parameters that are replaced: by an optimiser, by loading, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laser_fx.errors import InputError
from tests.training.loops import CONTRACTIVE, EXACT, UNIVERSAL, against_eager, compiled_task, gradients

Swap = Callable[[Any, Any], None]


def fresh(value: Tensor) -> Tensor:
    return 0.1 * torch.randn_like(value)


def by_new_parameters(run: Any, module: Any) -> None:
    for owner in module.modules():
        for name, value in list(owner._parameters.items()):
            if value is not None:
                setattr(owner, name, nn.Parameter(fresh(value)))


def by_new_parameters_of_what_is_called(run: Any, module: Any) -> None:
    run.step_embedding = nn.Parameter(fresh(module.step_embedding))


def by_new_data(run: Any, module: Any) -> None:
    for value in module.parameters():
        value.data = fresh(value)


def by_loading_with_assign(run: Any, module: Any) -> None:
    run.load_state_dict({name: fresh(value) for name, value in module.state_dict().items()}, assign=True)


def by_swapping(run: Any, module: Any) -> None:
    for value in list(module.parameters()):
        torch.utils.swap_tensors(value, nn.Parameter(fresh(value)))


SWAPS = [by_new_parameters, by_new_parameters_of_what_is_called, by_new_data, by_loading_with_assign, by_swapping]


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_replaced_parameters_are_used_and_get_the_gradients(memory: Any, swap: Swap) -> None:
    def recipe(run: Any, module: Any) -> Any:
        UNIVERSAL.loss(run, module, UNIVERSAL.batch(4)).backward()
        module.zero_grad()
        swap(run, module)
        loss = UNIVERSAL.loss(run, module, UNIVERSAL.batch(4))
        loss.backward()
        return loss.detach(), gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT)


def twice_as_strong(run: Any, module: Any) -> None:
    module.up.weight = nn.Parameter(2.0 * module.up.weight.detach())


@pytest.mark.parametrize("swap", [twice_as_strong, by_new_data, by_loading_with_assign])
def test_replaced_parameters_are_used_where_activations_are_compressed(swap: Swap) -> None:
    def recipe(run: Any, module: Any) -> Any:
        swap(run, module)
        loss = CONTRACTIVE.loss(run, module, CONTRACTIVE.batch(4))
        loss.backward()
        return loss.detach(), gradients(module)

    against_eager(CONTRACTIVE, "laser", recipe)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_data_that_is_replaced_before_backward_is_refused(memory: Any) -> None:
    """In eager some operators go on with the new data, and others with the old."""
    task = CONTRACTIVE if memory == "laser" else UNIVERSAL
    made = compiled_task(task, memory)
    loss = task.loss(made, made, task.batch(4))
    by_new_data(made, made._model)
    with pytest.raises(InputError, match="other data between forward and backward") as raised:
        loss.backward()
    assert str(raised.value.where).startswith("backward of ")
    assert "after backward" in str(raised.value.fix)


@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_parameters_that_are_replaced_before_backward_leave_the_old_ones_their_gradients(memory: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        old = list(module.parameters())
        loss = UNIVERSAL.loss(run, module, UNIVERSAL.batch(4))
        by_new_parameters(run, module)
        loss.backward()
        return [value.grad for value in old], gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT)


@pytest.mark.parametrize("memory", ["lean", 0.3, "laser"])
def test_weights_that_a_step_changes_before_backward_are_refused_as_in_eager(memory: Any) -> None:
    task = CONTRACTIVE if memory == "laser" else UNIVERSAL
    made = compiled_task(task, memory)
    for run in (made, made._model):
        loss = task.loss(run, made, task.batch(4))
        with torch.no_grad():
            for value in made.parameters():
                value.mul_(2.0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
