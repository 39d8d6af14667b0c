"""What torch.compile takes until its first answer, with no cache of an earlier run."""

from __future__ import annotations

import os
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
    # Kernels of an earlier run lie on disk; and the C++ compiler's time counts only if this process waits for it.
    with fresh_cache(), torch._inductor.config.patch(compile_threads=1):
        before = _seconds()
        prepared(arm, Bench(plan, files, size), 1, batch)
        seconds = _seconds() - before
    return {"arm": arm.name, "title": size.title, "batch": batch, "seconds": seconds}


def _seconds() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
