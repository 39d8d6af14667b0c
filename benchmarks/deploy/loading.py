"""Part two: how long a session takes to open, and the most memory that it and a run take."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.deploy.cases import Plan, Size
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Missing, Records

__all__ = ["measure"]

REPEATS = 3


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``load``: a row for each form, each opened in processes of its own."""
    for size, form, steps in _wanted(plan):
        records.once("load", f"{size.name}/{form}/{steps}", partial(_row, files, form, size, steps))


def _wanted(plan: Plan) -> Iterator[tuple[Size, str, int]]:
    first, second = plan.sizes[:2]
    yield from ((first, form, plan.load_steps) for form in ("rolled", "unrolled"))
    yield from ((first, form, plan.peer_steps) for form in ("functions", "unrolled", "torch"))
    yield from ((second, form, plan.load_steps) for form in ("rolled", "unrolled"))


def _row(files: Files, form: str, size: Size, steps: int) -> dict[str, Any]:
    make = {"rolled": files.rolled, "functions": files.functions, "unrolled": files.unrolled, "torch": files.by_torch}
    file = make[form](size, steps)
    repeats = REPEATS if form == "rolled" else 1 if file.nodes > 20_000 else 2
    runs = [opened(file.path, size.tokens, steps) for _ in range(repeats)]
    return {
        "size": size.name,
        "title": size.title,
        "form": form,
        "steps": steps,
        "nodes": file.nodes,
        "bytes": file.bytes,
        "runs": runs,
        "load_seconds": sorted(run["load"] for run in runs)[len(runs) // 2],
        "peak_bytes": max(run["peak"] for run in runs),
    }


def opened(path: str, tokens: int, steps: int) -> dict[str, Any]:
    """Figures of `benchmarks.deploy.child`.

    Raises:
        Missing: it failed or took too long.
    """
    command = [sys.executable, "-m", "benchmarks.deploy.child", path, str(tokens), str(steps)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=True)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"the session was not open after {error.timeout:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise Missing(f"the session did not open: {error.stderr.strip()[-300:]}") from error
    found: dict[str, Any] = json.loads(done.stdout)
    return found
