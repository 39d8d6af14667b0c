"""A run that was stopped goes on bitwise as if it had not been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training.resumed import MEMORIES, go_on, losses_of, run, save, started

ROOT = Path(__file__).parents[2]
BEFORE, AFTER = 2, 3


def stop(memory: Any, folder: Path) -> list[float]:
    """Train, save on the way, and return the losses that came after."""
    what, module, optimiser = started(memory)
    run(what, module, optimiser, BEFORE)
    save(module, optimiser, folder)
    return run(what, module, optimiser, AFTER)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_run_goes_on_bitwise(memory: Any, tmp_path: Path) -> None:
    expected = stop(memory, tmp_path)
    assert len(set(expected)) == AFTER
    assert go_on(memory, tmp_path, AFTER) == expected


@pytest.mark.parametrize("memory", MEMORIES[1:2])
def test_a_run_goes_on_bitwise_in_another_process(memory: Any, tmp_path: Path) -> None:
    expected = stop(memory, tmp_path)
    command = [sys.executable, "-m", "tests.training.resumed", str(tmp_path), str(memory), str(AFTER)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    assert losses_of(found.stdout) == expected
