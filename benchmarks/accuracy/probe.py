"""What an arm keeps and gets wrong in one training step, and what ranks the weights call for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.reporting import ENERGIES
from laser_fx.zoo.recipes import Recipe
from laser_fx.zoo.tasks import Batch
from laser_fx.zoo.trainer import loss
from tests.births import Births

__all__ = ["bytes_kept", "gradient_error", "probe_batch", "ranks"]

_PROBE_SEED = 17
_ENERGIES = (0.99, 0.999)

Forward = Callable[..., Any]


def probe_batch(recipe: Recipe) -> Batch:
    """The batch on which arms are compared: as large as a training batch, and no part of training's order."""
    return recipe.task.batch(recipe.batch_size, _PROBE_SEED)


def gradient_error(worn: Forward, inner: nn.Module, recipe: Recipe, batch: Batch) -> dict[str, float]:
    """How far an arm's gradients of one supervision step are from eager's, at the weights as they are.

    Returns:
        The worst relative error and the least cosine of any parameter.
    """
    mine = _gradients(worn, inner, recipe, batch)
    eager = _gradients(_eager(inner), inner, recipe, batch)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(mine, eager, strict=True) if b.norm() > 0]
    cosines = [float(_cosine(a, b)) for a, b in zip(mine, eager, strict=True) if b.norm() > 0]
    return {"worst_relative_error": max(errors), "least_cosine": min(cosines)}


def bytes_kept(worn: Forward, inner: nn.Module, recipe: Recipe, batch: Batch) -> dict[str, float]:
    """Bytes that operators made in one supervision step and that live until backward, in the arm and in eager."""
    mine, eager = _held(worn, inner, recipe, batch), _held(_eager(inner), inner, recipe, batch)
    return {"bytes": mine, "eager": eager, "fraction": mine / eager}


def ranks(inner: nn.Module, batch: Batch) -> dict[str, dict[str, float]]:
    """Site → its width, and the ranks that hold 99 % and 99.9 % of its energy, the largest over its steps."""
    report = laser_fx.inspect(inner, (_carry(inner, batch), batch))
    places = {f"{energy:g}": ENERGIES.index(energy) for energy in _ENERGIES}
    return {
        entry.site.key: {"width": entry.site.features, **{name: entry.rank_at[at] for name, at in places.items()}}
        for entry in report.sites
        if entry.rank_at
    }


def _eager(inner: nn.Module) -> Forward:
    """The forward of the module's class: an arm may have put another one on the module."""
    return lambda *args: type(inner).forward(inner, *args)


def _carry(inner: Any, batch: Batch) -> Any:
    return inner.fresh_carry(len(batch["inputs"]))


def _loss(forward: Forward, inner: nn.Module, recipe: Recipe, batch: Batch) -> Tensor:
    _, logits, (q_halt, _) = forward(_carry(inner, batch), batch)
    return loss(logits, q_halt, batch["labels"], recipe.halt_weight)


def _gradients(forward: Forward, inner: nn.Module, recipe: Recipe, batch: Batch) -> list[Tensor]:
    inner.zero_grad()
    _loss(forward, inner, recipe, batch).backward()
    found = [p.grad.clone() for p in inner.parameters() if p.grad is not None]
    inner.zero_grad()
    return found


def _held(forward: Forward, inner: nn.Module, recipe: Recipe, batch: Batch) -> int:
    carry = _carry(inner, batch)
    forward(carry, batch)  # compiles, where it has to: what that makes is not counted
    with Births() as births:
        outputs = forward(carry, batch)
    count = births.alive()
    del outputs
    return count


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten().double(), b.flatten().double(), dim=0)
