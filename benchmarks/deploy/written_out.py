"""Whether the unrolled file that ratios are taken of is a fair one: beside the file that torch's exporter writes."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.deploy.cases import Plan
from benchmarks.deploy.clock import interleaved, ratio
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Records
from benchmarks.deploy.sessions import answer, session

__all__ = ["measure"]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``written_out``: a row for each batch, at the first size and torch's number of steps."""
    for batch in plan.batches:
        records.once("written_out", f"batch {batch}", partial(_row, plan, files, batch))


def _row(plan: Plan, files: Files, batch: int) -> dict[str, Any]:
    size, steps = plan.sizes[0], plan.peer_steps
    made = {"rolled": files.rolled(size), "unrolled": files.unrolled(size, steps), "torch": files.by_torch(size, steps)}
    inputs = size.inputs(batch)
    calls = {name: partial(answer, session(file.path), inputs, steps) for name, file in made.items()}
    spent = interleaved(calls, rounds=plan.rounds, seconds=plan.cell_seconds, least=plan.least_rounds)
    return {
        "title": size.title,
        "batch": batch,
        "steps": steps,
        "rounds": len(spent["torch"]),
        "seconds": {name: statistics.median(values) for name, values in spent.items()},
        "rolled_of_torch": ratio(spent["rolled"], spent["torch"]),
        "unrolled_of_torch": ratio(spent["unrolled"], spent["torch"]),
        "cpu_seconds": spent,
    }
