"""What training a Tiny Recursive Model keeps for backward, and what that costs: eager, checkpointing, exact plans.

    python -m benchmarks.training_memory

writes benchmarks/results/training_memory.json. A step is one supervision step: forward, backward, no optimiser. All
arms run in one process, in turns; seconds are medians. Bytes are those of the storages that operators made in the
forward and that live when it has returned, by weak references: no hook is asked, so no autograd function escapes.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import laser_fx
from laser_fx.reporting import environment
from laser_fx.zoo.trm import TRM, Batch, TRMConfig
from tests.births import Births

BATCH, REPEATS = 4, 3
PUBLISHED = TRMConfig(seq_len=81, vocab_size=11, halt_exploration_prob=0.0)
CASES = (
    replace(PUBLISHED, hidden_size=128, num_heads=2),
    replace(PUBLISHED, hidden_size=128, num_heads=2, full_gradient=True),
    PUBLISHED,
)
PLANS: dict[str, Any] = {"lean": "lean", "0.3": 0.3, "0.05": 0.05}
RESULT = Path(__file__).parent / "results" / "training_memory.json"


@dataclass(frozen=True)
class Row:
    """One arm on one model."""

    hidden_size: int
    full_gradient: bool
    arm: str
    bytes: int
    bytes_of_eager: float
    seconds: float
    seconds_of_eager: float
    worst_gradient_error: float
    same_forward: bool
    planned_fraction: float | None
    all_seconds: tuple[float, ...]


@dataclass
class Result:
    """What one step gave."""

    logits: Tensor
    gradients: list[Tensor]


class Arm:
    """One way to train a model."""

    def __init__(self, name: str, module: TRM, run: nn.Module, batch: Batch) -> None:
        self.name, self.module, self.run, self.batch = name, module, run, batch
        self.carry = module.initial_carry(batch)
        self.seconds: list[float] = []

    def loss(self) -> tuple[Tensor, Tensor]:
        _, outputs = self.run(self.carry, self.batch)
        logits: Tensor = outputs["logits"]
        return logits.square().mean() + outputs["q_halt_logits"].square().mean(), logits

    def step(self) -> Result:
        self.module.zero_grad()
        began = time.perf_counter()
        loss, logits = self.loss()
        loss.backward()
        self.seconds.append(time.perf_counter() - began)
        return Result(logits.detach(), [p.grad.clone() for p in self.module.parameters() if p.grad is not None])

    def held(self) -> int:
        with Births() as births:
            loss, logits = self.loss()
        count = births.alive()
        del loss, logits
        return count


def checkpointed(module: TRM) -> TRM:
    """The same model with every block under `torch.utils.checkpoint`."""
    twin = copy.deepcopy(module)
    for block in twin.inner.L_level.layers:
        block.forward = _checkpointed(block.forward)  # type: ignore[method-assign]
    return twin


def _checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: checkpoint(forward, *args, use_reentrant=False) if torch.is_grad_enabled() else forward(*args)


def arms_of(config: TRMConfig) -> list[Arm]:
    torch.manual_seed(0)
    module = TRM(config).train()
    inputs = torch.randint(1, config.vocab_size, (BATCH, config.seq_len))
    batch = {"inputs": inputs, "puzzle_identifiers": torch.zeros(BATCH, dtype=torch.int64)}
    twin = checkpointed(module)
    arms = [Arm("eager", module, module, batch), Arm("checkpoint per block", twin, twin, batch)]
    for name, memory in PLANS.items():
        own = copy.deepcopy(module)
        compiled = laser_fx.compile(
            own, (own.initial_carry(batch), batch), options=laser_fx.Options.exact(memory=memory)
        )
        arms.append(Arm(f"laser-fx {name}", own, compiled, batch))
    return arms


def measure(config: TRMConfig) -> list[Row]:
    arms = arms_of(config)
    results = [arm.step() for arm in arms]  # warm: caches fill, bodies are traced
    for arm in arms:
        arm.seconds.clear()
    for _ in range(REPEATS):
        for arm in arms:
            arm.step()
    counts = [arm.held() for arm in arms]
    return [
        _row(config, arm, (count, counts[0]), (result, results[0]), statistics.median(arms[0].seconds))
        for arm, count, result in zip(arms, counts, results, strict=True)
    ]


def _row(
    config: TRMConfig, arm: Arm, counts: tuple[int, int], results: tuple[Result, Result], eager_seconds: float
) -> Row:
    mine, eager = results
    seconds = statistics.median(arm.seconds)
    pairs = zip(mine.gradients, eager.gradients, strict=True)
    plan = getattr(arm.run, "plan", None)
    return Row(
        hidden_size=config.hidden_size,
        full_gradient=config.full_gradient,
        arm=arm.name,
        bytes=counts[0],
        bytes_of_eager=counts[0] / counts[1],
        seconds=seconds,
        seconds_of_eager=seconds / eager_seconds,
        worst_gradient_error=max(float((a - b).norm() / b.norm()) for a, b in pairs),
        same_forward=torch.equal(mine.logits, eager.logits),
        planned_fraction=plan.fraction if plan else None,
        all_seconds=tuple(arm.seconds),
    )


def main() -> None:
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    rows = [row for config in track(CASES, "training") for row in measure(config)]
    recorded = {
        "command": "python -m benchmarks.training_memory",
        "model": f"TRM: 2 layers, H=3, L=6, sequence 81, batch {BATCH}, fp32; one supervision step",
        "conditions": f"one thread; the machine is shared with other jobs, load {load:.1f} at the start",
        "repeats": REPEATS,
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    RESULT.write_text(json.dumps(recorded, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
