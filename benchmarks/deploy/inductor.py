"""What torch.compile takes until its first answer, with no cache of an earlier run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch._inductor.utils import fresh_cache

from benchmarks.deploy.arms import ARMS, Bench, prepared
from benchmarks.deploy.cases import Plan
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Records

__all__ = ["measure"]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``inductor``: CPU seconds by arm, at the first size and batch."""
    for name in (arm.name for arm in ARMS if arm.name.startswith("torch.compile")):
        records.once("inductor", name, partial(_row, plan, files, name))


def _row(plan: Plan, files: Files, name: str) -> dict[str, Any]:
    arm = next(arm for arm in ARMS if arm.name == name)
    size, batch = plan.sizes[0], plan.batches[0]
    torch._dynamo.reset()
    with fresh_cache():  # kernels of an earlier run lie on disk
        seconds = prepared(arm, Bench(plan, files, size), 1, batch).seconds
    return {"arm": name, "title": size.title, "batch": batch, "seconds": seconds}
