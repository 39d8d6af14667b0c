"""See the package."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.records import append, load
from benchmarks.lowrank.measure import measure
from benchmarks.lowrank.points import MODELS, STEPS, Point, points
from laser_fx.reporting.environment import environment

RECORDS = Path(__file__).parents[1] / "results" / "lowrank_runs.jsonl"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    stop = time.monotonic() + 60 * options.minutes
    for number, point in enumerate(missing(options)):
        if time.monotonic() > stop:
            say("time is up: what is missing is measured by the next call")
            break
        record = measure(point)
        append(options.records, {**record, "environment": environment()})
        say(f"{number + 1:3}  " + line(record))
    if not options.no_report:
        from benchmarks.lowrank.publish import publish

        publish(options.records)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.lowrank", description=__doc__)
    made.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    made.add_argument("--minutes", type=float, default=float("inf"), help="start no point after so many minutes")
    made.add_argument("--records", type=Path, default=RECORDS, metavar="FILE", help="one line of JSON a point")
    made.add_argument("--no-report", action="store_true", help="only measure")
    return made


def missing(options: argparse.Namespace) -> Iterator[Point]:
    """Points without a record."""
    done = {key(record) for record in load(options.records)}
    for point in points():
        if point.model in options.models and key(vars(point)) not in done:
            yield point


def key(record: dict[str, Any]) -> str:
    """What tells a point from others; at stored steps, the steps are those of the model."""
    steps = record["steps"] if record["steps"] == STEPS else None
    return json.dumps([record["model"], record["choice"], record["share"], steps])


def line(record: dict[str, Any]) -> str:
    """A record for the terminal."""
    return (
        f"{record['model']:9}  {record['choice']:30}  {record['flops_share']:.3f} of the FLOPs  "
        f"{record['solved']}/{record['puzzles']} solved, exact {record['exact']}  "
        f"lost {record['lost']}, gained {record['gained']}  {record['cpu_seconds']:.0f} s"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    logging.getLogger("laser_fx").setLevel(logging.WARNING)
    main()
