"""What the tests of training share: models with data and a loss, memory plans, and the comparison with eager."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options
from laser_fx.passes.cut_segments import segments_of
from laser_fx.zoo.families.universal import UniversalTransformer
from tests.small import Contractive, low_rank, small_trm, trm_batch

EXACT = 1e-6
"""Gradients of exact plans, of eager's norm: products that are made again may be summed in another order."""
CURVE = 1e-4
"""Losses and weights after a few steps: an optimiser divides by a gradient's own size, which enlarges rounding."""

Run = Callable[..., Any]


@dataclass(frozen=True)
class Task:
    """A model to train.

    Args:
        model: makes it.
        batch: makes what its loss takes, for so many rows.
        loss: of a callable that stands for the model, the model, and a batch; a mean over the rows.
    """

    model: Callable[[], nn.Module]
    batch: Callable[[int], Any]
    loss: Callable[[Run, Any, Any], Tensor]


def _trm_loss(run: Run, module: Any, batch: Any) -> Tensor:
    _, outputs = run(module.initial_carry(batch), batch)
    return F.cross_entropy(outputs["logits"].flatten(0, 1), batch["inputs"].flatten())


def _square_loss(run: Run, module: Any, batch: Tensor) -> Tensor:
    return (run(batch) - 1.0).square().mean()


TRM = Task(lambda: small_trm(L_cycles=3), trm_batch, _trm_loss)
UNIVERSAL = Task(lambda: UniversalTransformer(embedding="learned"), lambda size: torch.randn(size, 5, 16), _square_loss)
CONTRACTIVE = Task(Contractive, lambda size: low_rank(size, 32, 32), _square_loss)

EXACT_PLANS = [
    pytest.param(task, memory, id=f"{name}-{memory}")
    for name, task, memories in (("trm", TRM, ("lean", 0.3, 0.05)), ("universal", UNIVERSAL, ("lean", 0.3)))
    for memory in memories
]
PLANS = [*EXACT_PLANS, pytest.param(CONTRACTIVE, "laser", id="contractive-laser")]
FEW = [EXACT_PLANS[0], EXACT_PLANS[4], PLANS[-1]]
"""One plan without products, one with, and the approximation."""


def options(memory: Any) -> Options:
    return Options.exact(memory=memory)


def tolerance(memory: Any, of_exact: float = CURVE) -> float:
    """What a result may differ by from eager's: the default fidelity leaves one part in a thousand of the energy."""
    return 0.05 if memory == "laser" else of_exact


def compiled(module: nn.Module, memory: Any) -> CompiledModel:
    return laser_fx.compile(module, options=options(memory))


def plans_apply(made: CompiledModel) -> bool:
    """Whether a program of the model keeps something else than eager does."""
    return any(segments_of(program.graph_module) or program.record_names for program in made._programs)


def against_eager(
    task: Task, memory: Any, recipe: Callable[[Any, Any], Any], *, of_exact: float = CURVE, count: int = 1
) -> Any:
    """Check that a recipe gives the same with a compiled model as with the model itself; returns eager's result.

    Args:
        recipe: takes what to call and the model; returns tensors.
        of_exact: tolerance of exact plans.
        count: programs that the recipe needs for training and evaluation.
    """
    made = compiled_task(task, memory)
    expected_module, module = copy.deepcopy(made._model), made._model
    torch.manual_seed(1)
    result = recipe(made, module)
    assert plans_apply(made)
    assert len(made._programs) == count, len(made._programs)
    torch.manual_seed(1)
    expected = recipe(expected_module, expected_module)
    same_to(result, expected, tolerance(memory, of_exact))
    return expected


def compiled_task(task: Task, memory: Any) -> CompiledModel:
    """A compiled model of its own, with the same weights at every call, that is compiled for batches of four rows."""
    return copy.deepcopy(_compiled_once(task, memory))


@cache
def _compiled_once(task: Task, memory: Any) -> CompiledModel:
    torch.manual_seed(0)
    module = task.model().train()
    made = compiled(module, memory)
    task.loss(made, module, task.batch(4)).backward()
    made.zero_grad()
    return made


def same_to(result: Any, expected: Any, tolerance: float) -> None:
    """Check that two trees of tensors agree: each tensor to this fraction of the expected one's norm."""
    (values, spec), (wanted, wanted_spec) = pytree.tree_flatten(result), pytree.tree_flatten(expected)
    assert spec == wanted_spec
    errors = [_error(value, want) for value, want in zip(values, wanted, strict=True)]
    assert max(errors, default=0.0) <= tolerance, errors


def _error(value: Any, expected: Any) -> float:
    if not isinstance(value, Tensor) or not isinstance(expected, Tensor):
        return 0.0 if value == expected else float("inf")
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return float("inf")
    if torch.equal(value, expected):
        return 0.0
    if not torch.equal(value.isnan(), expected.isnan()):
        return float("inf")
    value, expected = value.double().nan_to_num(), expected.double().nan_to_num()
    return float((value - expected).norm() / expected.norm().clamp(min=1e-12))


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}
