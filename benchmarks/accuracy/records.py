"""The records of runs: one line of JSON each, in a file that is whole at every moment."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.accuracy.arms import ARMS
from benchmarks.accuracy.recipes import HELD_OUT, recipe_of
from laser_fx.files import write_text

__all__ = ["RECORDS", "Key", "Record", "append", "commit", "config_hash", "current", "key_of", "load"]

RECORDS = Path(__file__).parents[1] / "results" / "accuracy_runs.jsonl"

Record = dict[str, Any]
Key = tuple[str, str, int]


def config_hash(model: str, arm: str, *, full_gradient: bool = False) -> str:
    """What decides the outcome of a run besides its seed: the recipe, the arm and the number of puzzles."""
    recipe = recipe_of(model, 0, full_gradient=full_gradient)
    text = repr((recipe, ARMS[arm].title, ARMS[arm].settings, HELD_OUT))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def key_of(record: Record) -> Key:
    """Model, arm and seed."""
    return record["model"], record["arm"], record["seed"]


def load(path: Path) -> list[Record]:
    """All records, oldest first; none where there is no file.

    Raises:
        ValueError: a line is no JSON.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def append(path: Path, record: Record) -> None:
    """Add a record: the file is replaced by one that holds it, or stays as it is."""
    earlier = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, earlier + json.dumps(record) + "\n", overwrite=True)


def current(records: Iterable[Record], *, full_gradient: bool = False) -> dict[Key, Record]:
    """The latest record of every run, of those made with the recipes and arms as they are now."""
    return {
        key_of(record): record
        for record in records
        if record["arm"] in ARMS
        and record["config"] == config_hash(record["model"], record["arm"], full_gradient=full_gradient)
    }


def commit() -> str:
    """The latest commit that changed the package; "unknown" outside of a checkout."""
    command = ["git", "log", "-1", "--format=%h", "--", "laser_fx"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
