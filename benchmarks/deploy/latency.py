"""Part three: a solve by every arm, in turns."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.deploy.arms import ARMS, Arm, Bench, Solver, prepared
from benchmarks.deploy.cases import Plan
from benchmarks.deploy.clock import cpu_seconds, interleaved, ratio
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Missing, Records

__all__ = ["measure"]

BASE = "unrolled"
EAGER = "torch eager"
_TOLERANCE, _CHECKED_STEPS = 1e-3, 4
"""Of the largest logit: sums in another order. Untrained weights multiply that from step to step, so that answers of
many steps say nothing about a file: differences are recorded, and checked up to so many steps."""


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``latency``: one entry for each size, batch and number of steps."""
    for size in plan.sizes:
        bench = Bench(plan, files, size)
        for batch in plan.batches:
            one = 0.0
            for steps in plan.steps:
                key = f"{size.name}/batch {batch}/{steps}"
                cell = records.once("latency", key, partial(_cell, bench, steps, batch, one * steps))
                one = one or cell.get("one", 0.0)


def _cell(bench: Bench, steps: int, batch: int, expected: float) -> dict[str, Any]:
    """
    Args:
        expected: seconds of a call of the rolled file; 0 where that is not known.
    """
    plan = bench.plan
    about = {"size": bench.size.name, "title": bench.size.title, "batch": batch, "steps": steps}
    if expected > plan.call_seconds:
        return {**about, "skipped": f"a call takes {expected:.0f} s", "rows": []}
    load = os.getloadavg()[0]
    solvers, started, skipped = _ready(ARMS, bench, steps, batch)
    inputs = bench.size.inputs(batch)
    answers = {name: solver(inputs) for name, solver in solvers.items()}
    once = cpu_seconds(lambda: solvers["rolled"](inputs))
    calls = {name: (lambda s=solver: s(inputs)) for name, solver in solvers.items()}  # type: ignore[misc]
    spent = interleaved(calls, rounds=plan.rounds, seconds=plan.cell_seconds, least=plan.least_rounds)
    rows = [_row(arm, spent, answers, started) for arm in ARMS if arm.name in spent]
    _check(rows, steps)
    loads = [load, os.getloadavg()[0]]
    return {**about, "one": once / steps, "load_average": loads, "rows": rows, "missing": skipped}


def _ready(
    arms: Iterable[Arm], bench: Bench, steps: int, batch: int
) -> tuple[dict[str, Solver], dict[str, float], dict[str, str]]:
    solvers, started, skipped = {}, {}, {}
    for arm in arms:
        try:
            solvers[arm.name], started[arm.name] = prepared(arm, bench, steps, batch)
        except Missing as missing:
            skipped[arm.name] = str(missing)
    return solvers, started, skipped


def _row(arm: Arm, spent: dict[str, list[float]], answers: dict[str, Any], started: dict[str, float]) -> dict[str, Any]:
    mine = spent[arm.name]
    return {
        "arm": arm.name,
        "exact": arm.exact,
        "seconds": statistics.median(mine),
        "of_unrolled": ratio(mine, spent[BASE]) if BASE in spent else None,
        "of_eager": ratio(mine, spent[EAGER]),
        "difference": _difference(answers[arm.name], answers[EAGER]),
        "start_seconds": started[arm.name],
        "cpu_seconds": mine,
    }


def _check(rows: list[dict[str, Any]], steps: int) -> None:
    for row in rows:
        if steps <= _CHECKED_STEPS and row["exact"] and not row["difference"] < _TOLERANCE:
            raise AssertionError(f"{row['arm']} answers otherwise than eager: {row['difference']:.1e} of the largest")


def _difference(mine: Any, expected: Any) -> float:
    return float(np.abs(mine - expected).max() / np.abs(expected).max())
