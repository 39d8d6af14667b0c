"""How much the measured models magnify rounding: eager beside eager with every weight one rounding off."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.deploy.cases import Plan
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Records
from laser_fx.zoo import TRM, Solve

__all__ = ["measure"]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``rounding``: by number of steps, at the first size and the largest batch."""
    for steps in plan.steps:
        records.once("rounding", str(steps), partial(_row, plan, steps))


def _row(plan: Plan, steps: int) -> dict[str, Any]:
    size, batch = plan.sizes[0], plan.batches[-1]
    inputs = torch.from_numpy(size.inputs(batch))
    with torch.no_grad():
        expected = Solve(size.trm(), steps)(inputs)
        nudged = Solve(_nudged(size.trm()), steps)(inputs)
    difference = float((nudged - expected).abs().max() / expected.abs().max())
    return {"title": size.title, "batch": batch, "steps": steps, "difference": difference}


def _nudged(model: TRM) -> TRM:
    """Every weight moved to one of its neighbours in float32, up or down by a draw."""
    draws = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = torch.nextafter(weight.data, _either_infinity(weight, draws))
    return model


def _either_infinity(like: Tensor, draws: torch.Generator) -> Tensor:
    return torch.where(torch.rand(like.shape, generator=draws) < 0.5, torch.inf, -torch.inf)
