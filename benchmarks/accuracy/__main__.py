"""See the package."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.accuracy.arms import ARMS
from benchmarks.accuracy.recipes import MODELS
from benchmarks.accuracy.records import RECORDS, Key, append, current, load
from benchmarks.accuracy.run import run

SEEDS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    stop = time.monotonic() + 60 * options.minutes
    for model, arm, seed in missing(options):
        if time.monotonic() > stop:
            say("time is up: what is missing is trained by the next call")
            break
        record = run(model, arm, seed, full_gradient=options.full_gradient)
        append(options.records, record)
        exact = record["solved"] / record["count"]
        say(f"{model:9}  {arm:12}  seed {seed:2}  exact {exact:6.1%}  {record['seconds']:5.1f} s")
    if not options.no_report:
        from benchmarks.accuracy.publish import publish

        publish(options.records)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    made.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    made.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    made.add_argument("--seeds", nargs="+", type=int, default=list(range(SEEDS)))
    made.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many minutes")
    made.add_argument("--full-gradient", action="store_true", help="gradients through all cycles")
    made.add_argument("--records", type=Path, default=RECORDS, metavar="FILE", help="one line of JSON a run")
    made.add_argument("--no-report", action="store_true", help="only train")
    return made


def missing(options: argparse.Namespace) -> Iterator[Key]:
    """Runs without a record, seed by seed: what is there at any moment is a smaller study, not half of one."""
    done = current(load(options.records), full_gradient=options.full_gradient)
    for seed, model, arm in itertools.product(options.seeds, options.models, options.arms):
        if (model, arm, seed) not in done:
            yield model, arm, seed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
