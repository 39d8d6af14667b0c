"""``python -m tests.fuzz.run --cases 10000``: random loop nests against what laser-fx makes of them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from laser_fx.files import write_text
from laser_fx.reporting import environment
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.script import FOLDER, save_script

__all__ = ["Outcome", "fuzz", "main"]

BATCH = 250
"""Cases for which hypothesis keeps track of what it tried."""


@dataclass
class Outcome:
    """What became of the cases of one kind.

    Args:
        cases: how many ran.
        counts: what they turned out to be.
        failures: a script for each defect, the least case that shows it.
    """

    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[Path] = field(default_factory=list)


def fuzz(
    kind: Kind, cases: int, seed: int, *, folder: Path = FOLDER, advance: Callable[[], object] = lambda: None
) -> Outcome:
    """Run cases of one kind; each failing batch leaves a script.

    Args:
        kind: of `KINDS`.
        cases: how many.
        seed: equal seeds make equal cases.
        folder: where scripts go.
        advance: called after each case.
    """
    outcome = Outcome()
    for batch, count in enumerate(_batches(cases)):
        failing = _run_batch(kind, count, seed + batch, outcome, advance)
        if failing is not None:
            example, title = failing
            outcome.failures.append(save_script(kind.script(example, title), folder))
    return outcome


def _batches(cases: int) -> Iterator[int]:
    for start in range(0, cases, BATCH):
        yield min(BATCH, cases - start)


def _run_batch(
    kind: Kind, count: int, seed: int, outcome: Outcome, advance: Callable[[], object]
) -> tuple[Any, str] | None:
    """The least failing example and what is wrong with it, None if all is well."""
    latest: list[tuple[Any, str]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(kind.examples)
    def one(example: Any) -> None:
        try:
            result = kind.check(example)
        except Exception as error:
            latest[:] = [(example, f"{type(error).__name__}: {error}".splitlines()[0])]
            raise
        if not latest:  # what shrinking tries is not counted
            outcome.cases += 1
            outcome.counts[result] += 1
            advance()

    try:
        one()
    except Exception:
        if not latest:
            raise
        return latest[0]
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all kinds; 1 if any case failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write a summary to this file")
    given_ = parser.parse_args(arguments)
    torch.set_num_threads(1)  # so small tensors are only slowed down by more
    started = time.perf_counter()
    outcomes = _run_all(given_.cases, given_.seed)
    seconds = time.perf_counter() - started
    _print(outcomes, seconds)
    if given_.json is not None:
        _write(given_.json, outcomes, given_, seconds)
    return 1 if any(outcome.failures for outcome in outcomes.values()) else 0


def _run_all(cases: int, seed: int) -> dict[str, Outcome]:
    columns = (TextColumn("{task.description:15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    outcomes: dict[str, Outcome] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name, kind in KINDS.items():
            count = max(1, cases * kind.share // 1000)
            task = progress.add_task(name, total=count)

            def advance(task: Any = task) -> None:
                progress.advance(task)

            outcomes[name] = fuzz(kind, count, seed, advance=advance)
    return outcomes


def _print(outcomes: dict[str, Outcome], seconds: float) -> None:
    for name, outcome in outcomes.items():
        counts = ", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items()))
        print(f"{name}: {outcome.cases} cases: {counts}")
        for path in outcome.failures:
            print(f"  FAILED: python {path}")
    print(f"{sum(outcome.cases for outcome in outcomes.values())} cases in {seconds:.0f} s")


def _write(path: Path, outcomes: dict[str, Outcome], given_: argparse.Namespace, seconds: float) -> None:
    summary = {
        "command": shlex.join(["python", "-m", "tests.fuzz.run", *sys.argv[1:]]),
        "cases": sum(outcome.cases for outcome in outcomes.values()),
        "seed": given_.seed,
        "seconds": round(seconds, 1),
        "kinds": {
            name: {
                "cases": outcome.cases,
                "counts": dict(sorted(outcome.counts.items())),
                "failures": [path.name for path in outcome.failures],
            }
            for name, outcome in outcomes.items()
        },
        "environment": {**environment(), "hypothesis": hypothesis.__version__},
    }
    write_text(path, json.dumps(summary, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    raise SystemExit(main())
