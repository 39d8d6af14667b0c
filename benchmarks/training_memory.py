"""What training a Tiny Recursive Model keeps for backward, and what that costs: eager, torch's own ways, laser-fx.

    python -m benchmarks.training_memory            # writes benchmarks/results/training_memory.json
    python -m benchmarks.training_memory --quick    # a small model: training_memory_quick.json
    python -m benchmarks.training_memory --resume   # keeps the cases that the file has already

A step is one supervision step: forward and backward, no optimiser. All arms of a case run in one process, in turns.
Bytes are the allocator's (`benchmarks.training.allocator`); times are CPU seconds of the one thread, which other jobs
on the machine do not lengthen as they do wall seconds; both are recorded.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.training import depth
from benchmarks.training.arms import ARMS
from benchmarks.training.cases import CASES, QUICK, Case, cuda_cases
from benchmarks.training.measure import measure
from laser_fx.files import write_text
from laser_fx.reporting import environment

RESULTS = Path(__file__).parent / "results"
_BODIES = 64
"""Arms of one case share the model's code, and dynamo counts how often it compiles that."""


def conditions() -> dict[str, Any]:
    """The machine, and how it was used."""
    return {
        "command": " ".join(["python -m benchmarks.training_memory", *sys.argv[1:]]),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "environment": environment(),
    }


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def not_measured(cases: tuple[Case, ...]) -> list[str]:
    """What this machine cannot say."""
    if torch.cuda.is_available():
        return []
    return [f"{case.title}: there was no CUDA device" for case in cuda_cases(cases)]


def record(path: Path, part: dict[str, Any]) -> None:
    """Add to the file, which is never seen half written."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps({**known, **part}, indent=1) + "\n", overwrite=True)


def run(cases: tuple[Case, ...], path: Path, console: Console) -> None:
    for case in cases:
        with console.status(case.title) as status:
            found = measure(case, ARMS, lambda doing, c=case: status.update(f"{c.title}: {doing}"))  # type: ignore[misc]
        known = json.loads(path.read_text(encoding="utf-8")).get("cases", [])
        record(path, {"cases": [*known, {**found, **conditions()}]})
        console.print(f"{case.title}: {len(found['rows'])} arms in {found['took_seconds']:.0f} s")


def main(
    quick: Annotated[bool, typer.Option(help="A small model: minutes.")] = False,
    resume: Annotated[bool, typer.Option(help="Keep the cases that the file has.")] = False,
) -> None:
    """Measure every arm on every case."""
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = _BODIES
    console = Console(stderr=True)
    path = RESULTS / f"training_memory{'_quick' if quick else ''}.json"
    on_cpu = QUICK if quick else CASES
    cases = on_cpu + (cuda_cases(on_cpu) if torch.cuda.is_available() else ())
    if not resume or not path.exists():
        path.unlink(missing_ok=True)
        record(path, {"about": (__doc__ or "").splitlines()[0], "not_measured": not_measured(on_cpu), "cases": []})
    recorded = json.loads(path.read_text(encoding="utf-8"))
    done = {case["case"] for case in recorded["cases"]}
    left = tuple(case for case in cases if case.name not in done)
    run(tuple(case for case in left if case in on_cpu[:2]), path, console)
    if "depth" not in recorded:
        with console.status("depth") as status:
            record(path, {"depth": depth.measure(on_cpu[0], status.update) | conditions()})
    run(tuple(case for case in left if case not in on_cpu[:2]), path, console)


if __name__ == "__main__":
    typer.run(main)
