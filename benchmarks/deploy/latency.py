"""Part three: a solve by every arm, in turns."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.deploy.arms import ARMS, Arm, Bench, Ready, prepared
from benchmarks.deploy.cases import Plan
from benchmarks.deploy.clock import interleaved, ratio
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Missing, Records

__all__ = ["measure"]

BASE = "unrolled"
EAGER = "torch eager"
CORE, CORE_ROUNDS = ("rolled", BASE, EAGER), 2
"""What runs where a call takes seconds, and how often; where it takes longer still, the first call is timed alone."""
_TOLERANCE, _TOLERABLE = 1e-3, 16
"""Of the largest logit, at so many steps at most: sums in another order, added up over the steps. In deeper solves
these models magnify rounding too much to tell a wrong answer by it; `rounding` measures how much."""


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``latency``: one entry for each size, batch and number of steps."""
    for size in plan.sizes:
        _measure_size(Bench(plan, files, size), records)


def _measure_size(bench: Bench, records: Records) -> None:
    single = 0.0
    for batch in bench.plan.batches:
        one = single * batch
        for steps in bench.plan.steps:
            key = f"{bench.size.name}/batch {batch}/{steps}"
            cell = records.once("latency", key, partial(_cell, bench, steps, batch, one * steps))
            one = cell.get("one", one)
        single = single or one / batch


def _cell(bench: Bench, steps: int, batch: int, expected: float) -> dict[str, Any]:
    """
    Args:
        expected: seconds of a call of the rolled file; 0 where that is not known.
    """
    plan = bench.plan
    about = {"size": bench.size.name, "title": bench.size.title, "batch": batch, "steps": steps}
    short = expected <= plan.call_seconds
    arms = [arm for arm in ARMS if short or arm.name in CORE]
    load = os.getloadavg()[0]
    ready, missing = _ready(arms, bench, steps, batch)
    single = expected > plan.core_seconds
    spent = {name: [arm.first_call] for name, arm in ready.items()} if single else _spent(plan, ready, short)
    rows = [_row(arm, spent, ready) for arm in arms if arm.name in spent]
    if steps <= _TOLERABLE:
        _check(rows)
    one = statistics.median(spent["rolled"]) / steps
    loads = [load, os.getloadavg()[0]]
    return {**about, "one": one, "core": not short, "load_average": loads, "rows": rows, "missing": missing}


def _spent(plan: Plan, ready: Mapping[str, Ready], short: bool) -> dict[str, list[float]]:
    """CPU seconds of every arm in every round."""
    calls = {name: arm.again for name, arm in ready.items()}
    rounds = (plan.rounds, plan.least_rounds) if short else (CORE_ROUNDS, CORE_ROUNDS)
    return interleaved(calls, rounds=rounds[0], seconds=plan.cell_seconds, least=rounds[1], warm=short)


def _ready(arms: Iterable[Arm], bench: Bench, steps: int, batch: int) -> tuple[dict[str, Ready], dict[str, str]]:
    ready, missing = {}, {}
    for arm in arms:
        try:
            ready[arm.name] = prepared(arm, bench, steps, batch)
        except Missing as reason:
            missing[arm.name] = str(reason)
    return ready, missing


def _row(arm: Arm, spent: dict[str, list[float]], ready: dict[str, Ready]) -> dict[str, Any]:
    mine = spent[arm.name]
    return {
        "arm": arm.name,
        "exact": arm.exact,
        "seconds": statistics.median(mine),
        "of_unrolled": ratio(mine, spent[BASE]) if BASE in spent else None,
        "of_eager": ratio(mine, spent[EAGER]),
        "difference": _difference(ready[arm.name].answer, ready[EAGER].answer),
        "start_seconds": ready[arm.name].seconds,
        "cpu_seconds": mine,
    }


def _check(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["exact"] and not row["difference"] < _TOLERANCE:
            raise AssertionError(f"{row['arm']} answers otherwise than eager: {row['difference']:.1e} of the largest")


def _difference(mine: Any, expected: Any) -> float:
    return float(np.abs(mine - expected).max() / np.abs(expected).max())
