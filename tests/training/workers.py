"""What each of two processes does in the tests of distributed training; the first writes the results as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import LaserError
from laser_fx.options import Options
from tests.training.loops import CONTRACTIVE, TRM, UNIVERSAL, Task, compiled, gradients, plans_apply

__all__ = ["ROWS", "alone", "batches"]

ROWS = 8


def seeded(task: Task) -> Any:
    torch.manual_seed(0)
    return task.model().train()


def batches(task: Task) -> list[Any]:
    """The same in every process."""
    torch.manual_seed(1)
    return [task.batch(ROWS) for _ in range(3)]


def alone(task: Task) -> list[float]:
    """Losses of one eager process."""
    module = seeded(task)
    return _losses(task, module, module, lambda batch: batch)


def share(batch: Any) -> Any:
    """Every second row."""
    rows = slice(dist.get_rank(), None, dist.get_world_size())
    return {name: value[rows] for name, value in batch.items()} if isinstance(batch, dict) else batch[rows]


def _losses(task: Task, run: Any, module: Any, part: Callable[[Any], Any]) -> list[float]:
    optimiser = torch.optim.AdamW(run.parameters(), lr=1e-3)
    losses = []
    for batch in batches(task):
        loss = task.loss(run, module, part(batch))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def together(task: Task, run: Any, module: Any, made: CompiledModel) -> list[float]:
    """Losses of both processes, averaged."""
    losses = torch.tensor(_losses(task, run, module, share))
    dist.all_reduce(losses)
    assert plans_apply(made)
    return [float(loss) for loss in losses / dist.get_world_size()]


def ddp(task: Task, memory: Any, **options: Any) -> list[float]:
    module = seeded(task)
    made = compiled(module, memory)
    return together(task, DistributedDataParallel(made, **options), module, made)


def ddp_around(task: Task, memory: Any) -> list[float]:
    """The compiled model is a part of what is wrapped."""
    module = seeded(task)
    made = compiled(module, memory)
    return together(task, DistributedDataParallel(nn.Sequential(made, nn.Identity())), module, made)


def fsdp(task: Task, memory: Any) -> list[float]:
    module = seeded(task)
    made = compiled(module, memory)
    fully_shard(made)
    assert all(type(value).__name__ == "DTensor" for value in made.parameters())
    return together(task, made, module, made)


def fsdp_around(task: Task, memory: Any) -> list[float]:
    """Weights are gathered for the compiled part, and freed after its forward."""
    module = seeded(task)
    made = compiled(module, memory)
    whole = nn.Sequential(made, nn.Identity())
    fully_shard(whole[0], reshard_after_forward=True)
    fully_shard(whole)
    return together(task, whole, module, made)


def refusal(made: CompiledModel) -> list[str | None]:
    try:
        made(UNIVERSAL.batch(4))
    except LaserError as error:
        return [type(error).__name__, error.what, error.where, error.fix]
    return []


def sharded_before() -> list[str | None]:
    module = seeded(UNIVERSAL)
    fully_shard(module)
    return refusal(compiled(module, "lean"))


def sharded_inside() -> list[str | None]:
    made = compiled(seeded(UNIVERSAL), "lean")
    made(UNIVERSAL.batch(4)).sum().backward()
    fully_shard(made.block)
    return refusal(made)


def local_bases(tracking: Any) -> dict[str, Any]:
    """Whether each process has the gradients that it would have without the other one, and what its bases are."""
    found: list[list[Tensor | None]] = []
    for wrapped in (False, True):
        options = Options.exact(memory="laser", tracking=tracking)
        made = laser_fx.compile(seeded(CONTRACTIVE), options=options)
        run = DistributedDataParallel(made) if wrapped else made
        for batch in batches(CONTRACTIVE):
            with run.no_sync() if isinstance(run, DistributedDataParallel) else nullcontext():
                CONTRACTIVE.loss(run, made, share(batch)).backward()
        assert plans_apply(made)
        found.append(gradients(made))
    equal = all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None and b is not None)
    return {"alone": equal, "bases": [float(basis.double().sum()) for basis in made.bases.state_dict().values()]}


CASES: dict[str, Callable[[], Any]] = {
    "ddp universal lean": lambda: ddp(UNIVERSAL, "lean"),
    "ddp trm 0.3": lambda: ddp(TRM, 0.3, find_unused_parameters=True),
    "ddp contractive laser": lambda: ddp(CONTRACTIVE, "laser"),
    "ddp around universal lean": lambda: ddp_around(UNIVERSAL, "lean"),
    "fsdp universal lean": lambda: fsdp(UNIVERSAL, "lean"),
    "fsdp contractive laser": lambda: fsdp(CONTRACTIVE, "laser"),
    "fsdp around universal 0.3": lambda: fsdp_around(UNIVERSAL, 0.3),
    "sharded before": sharded_before,
    "sharded inside": sharded_inside,
    "local step": lambda: local_bases("step"),
    "local segment": lambda: local_bases("segment"),
}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {name: case() for name, case in CASES.items()}
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, results)
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(every), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
