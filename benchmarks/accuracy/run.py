"""One run: a model trained from scratch under one arm, and everything that is said about it afterwards."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.accuracy.arms import ARMS, CONTROLS, compiled_of
from benchmarks.accuracy.probe import bytes_kept, gradient_error, probe_batch, ranks
from benchmarks.accuracy.recipes import held_out, recipe_of
from benchmarks.accuracy.records import Record, commit, config_hash
from benchmarks.accuracy.sites import Tally, total
from laser_fx.compiler import CompiledModel
from laser_fx.reporting import environment
from laser_fx.zoo.recipes import Recipe
from laser_fx.zoo.tasks import Batch
from laser_fx.zoo.trainer import Trainer
from laser_fx.zoo.trm import TRM, Solve

__all__ = ["answers", "pack", "run", "unpack"]

_LOSSES = 20
_RANKED_SEEDS = (0, 1)
"""Seeds whose eager run says what ranks its weights call for: that is a property of the model, and slow to measure."""


def run(model: str, arm: str, seed: int, *, full_gradient: bool = False) -> Record:
    """Train, evaluate and describe. What is evaluated is the averaged weights, in eager: the arm only trained them."""
    recipe = recipe_of(model, seed, full_gradient=full_gradient)
    trainer = Trainer(recipe)
    record: Record = {
        "model": model,
        "arm": arm,
        "seed": seed,
        "full_gradient": full_gradient,
        "config": config_hash(model, arm, full_gradient=full_gradient),
        "initial_weights": weights_hash(trainer),
    }
    if arm == "eager":
        record["untrained"] = _evaluated(trainer, recipe)
    if arm == "eager" and seed in _RANKED_SEEDS:
        record["ranks_untrained"] = ranks(trainer.model.inner, probe_batch(recipe))
    record |= _train(trainer, arm)
    record |= _evaluated(trainer, recipe)
    if "ranks_untrained" in record:
        record["ranks_trained"] = ranks(trainer.model.inner, probe_batch(recipe))
    return {**record, "weights": weights_hash(trainer), "commit": commit(), "environment": environment()}


def _train(trainer: Trainer, arm: str) -> dict[str, Any]:
    inner, recipe, batch = trainer.model.inner, trainer.recipe, probe_batch(trainer.recipe)
    worn = trainer.model.inner = ARMS[arm].put_on(inner)
    found: dict[str, Any] = {}
    if arm not in CONTROLS:
        found["gradient_untrained"] = gradient_error(worn, inner, recipe, batch)
    tallies = _watch(worn)
    wall, cpu = time.perf_counter(), time.process_time()
    losses = [trainer.train_batch() for _ in range(recipe.batches)]
    found["seconds"], found["cpu_seconds"] = time.perf_counter() - wall, time.process_time() - cpu
    found["losses"] = [round(float(np.mean(losses[at : at + _LOSSES])), 4) for at in range(0, len(losses), _LOSSES)]
    if tallies:
        found["sites"] = {key: tally.rates() for key, tally in tallies.items()}
        found["all_sites"] = total(tallies.values()).rates()
    if arm not in CONTROLS:
        found["gradient_trained"] = gradient_error(worn, inner, recipe, batch)
        found["kept"] = bytes_kept(worn, inner, recipe, batch)
        found["plan_fraction"] = _planned(worn)
    trainer.model.inner = inner
    return found


def _watch(worn: torch.nn.Module) -> dict[str, Tally]:
    """Tallies that are filled at every call of a compiled model that tracks bases."""
    tallies: dict[str, Tally] = {}

    def count(compiled: CompiledModel, *_: Any) -> None:
        # The report says the same of the latest call, but measures spectra every time that it is asked.
        steps = compiled.program.steps(compiled._records) if compiled._records else {}
        steps |= {tracked.site: tracked.steps for tracked in compiled.bases.values()}
        for key, made in steps.items():
            tallies.setdefault(key, Tally()).add(made)

    if compiled_of(worn) is not None:
        worn.register_forward_hook(count)  # type: ignore[arg-type]
    return tallies


def _planned(worn: torch.nn.Module) -> float | None:
    compiled = compiled_of(worn)
    return None if compiled is None or compiled.plan is None else compiled.plan.fraction


def _evaluated(trainer: Trainer, recipe: Recipe) -> dict[str, Any]:
    began = time.perf_counter()
    right = answers(trainer.averaged_model(), held_out(), recipe.test_steps)
    found = {"solved": int(right.sum()), "count": len(right), "answers": pack(right)}
    return {**found, "evaluation_seconds": time.perf_counter() - began}


@torch.no_grad()
def answers(model: TRM, batch: Batch, steps: int, rows: int = 100) -> Tensor:
    """Which puzzles are solved without a wrong cell: (count,) bool."""
    solve = Solve(model, steps)
    pairs = zip(batch["inputs"].split(rows), batch["labels"].split(rows), strict=True)
    return torch.cat([(solve(inputs).argmax(dim=-1) == labels).all(dim=-1) for inputs, labels in pairs])


def pack(right: Tensor) -> str:
    """One bit a puzzle, as hexadecimal digits.

    >>> pack(torch.tensor([True, False, False, False, False, False, True, True, True]))
    '8380'
    """
    return np.packbits(right.numpy()).tobytes().hex()


def unpack(text: str, count: int) -> list[bool]:
    """What `pack` packed.

    >>> unpack("8380", 9)[-3:]
    [True, True, True]
    """
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=count)
    return [bool(bit) for bit in bits]


def weights_hash(trainer: Trainer) -> str:
    """Tells whether two runs ended at the very same averaged weights."""
    digest = hashlib.sha256()
    for name in sorted(trainer.averaged):
        digest.update(trainer.averaged[name].contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
