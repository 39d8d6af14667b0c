"""Part four: time of a call that leaves the loop early, by the steps that it took."""

from __future__ import annotations

import itertools
import statistics
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import laser_fx
from benchmarks.deploy.cases import Plan, Size
from benchmarks.deploy.clock import Call, interleaved
from benchmarks.deploy.files import File, Files, exact
from benchmarks.deploy.records import Missing, Records
from laser_fx.errors import LaserError
from laser_fx.export import OnnxModel
from laser_fx.zoo import TRM

__all__ = ["Counting", "line", "measure"]

MOST = 16
TAKEN = (1, 2, 4, 8, 12, 16)
PER = ("batch", "example")
ROUNDS = 9


class Counting(nn.Module):
    """A solve whose halting logit is the number of steps made, so that the threshold of a call says when it ends.

    ``forward(inputs)`` takes (batch, seq_len) int64; returns ``logits`` (batch, seq_len, vocab_size) of the last step
    and ``halt`` (batch,) float32.
    """

    def __init__(self, trm: TRM, steps: int) -> None:
        super().__init__()
        self.trm, self.steps = trm, steps

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        batch = {"inputs": inputs, "puzzle_identifiers": inputs.new_zeros(inputs.shape[0])}
        carry = self.trm.initial_carry(batch).inner_carry
        logits = carry.z_H.new_zeros(*inputs.shape, self.trm.config.vocab_size)

        def step(i: Tensor, state: tuple[Any, Tensor, Tensor]) -> tuple[Any, Tensor, Tensor]:
            following, answer, _ = self.trm.inner(state[0], batch)
            return following, answer, state[2] + 1.0

        _, answer, count = laser_fx.loop(step, (carry, logits, logits.new_zeros(inputs.shape[0])), self.steps)
        return {"logits": answer, "halt": count}


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``early_exit``: a row for each size, batch and kind of halting."""
    first, *others = plan.sizes[:2]
    wanted = [*itertools.product([first], plan.batches, PER), *((size, plan.batches[0], PER[0]) for size in others)]
    for size, batch, per in wanted:
        records.once("early_exit", f"{size.name}/batch {batch}/per {per}", partial(_row, plan, files, size, batch, per))


def halting_file(files: Files, size: Size, per: str) -> File:
    """A rolled file of at most `MOST` steps that halts."""
    name = f"{size.name}-halting-{per}"
    return files.exported(name, lambda: exact(Counting(size.trm(), MOST).eval(), size), halt="halt", halt_per=per)


def _row(plan: Plan, files: Files, size: Size, batch: int, per: str) -> dict[str, Any]:
    inputs = torch.from_numpy(size.inputs(batch))
    threads = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
    try:
        model = OnnxModel(halting_file(files, size, per).path, session_options=threads)
    except (LaserError, TypeError) as error:
        raise Missing(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    plain = OnnxModel(files.rolled(size).path, session_options=threads)

    def call(steps: int) -> None:
        model(inputs, halt=steps - 0.5)
        if not np.all(np.asarray(model.steps_taken) == steps):
            raise AssertionError(f"{model.steps_taken} steps were taken, not {steps}")

    arms: dict[str, Call] = {str(steps): partial(call, steps) for steps in TAKEN}
    arms["plain"] = partial(plain, inputs, depth=MOST)
    spent = interleaved(arms, rounds=min(ROUNDS, plan.rounds), seconds=plan.cell_seconds)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    about = {"size": size.name, "title": size.title, "batch": batch, "per": per, "rounds": len(spent["1"])}
    found = line([(steps, medians[str(steps)]) for steps in TAKEN])
    return {**about, "seconds": medians, **found, "of_plain": medians[str(MOST)] / medians["plain"]}


def line(points: list[tuple[int, float]]) -> dict[str, Any]:
    """A line through (steps, seconds), and how far time is from being in proportion to steps.

    ``deviation`` is the largest |seconds / (steps · c) − 1|, with the one c that makes it least.

    >>> found = line([(1, 2.0), (2, 4.0), (4, 8.0)])
    >>> round(found["slope"], 3), round(found["deviation"], 3)
    (2.0, 0.0)
    """
    steps, seconds = (np.array(values, np.float64) for values in zip(*points, strict=True))
    slope, intercept = np.polyfit(steps, seconds, 1)
    each = seconds / steps
    level = (each.max() + each.min()) / 2
    deviations = {int(n): float(value / level - 1) for n, value in zip(steps, each, strict=True)}
    return {
        "slope": float(slope),
        "intercept": float(intercept),
        "deviations": deviations,
        "deviation": max(abs(value) for value in deviations.values()),
    }
