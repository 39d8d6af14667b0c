"""A file is the same, byte for byte, whichever process writes it: names come from the model, never from a hash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WRITES = """
import hashlib, sys, tempfile
from pathlib import Path
from tests.export.matrix import _compiled
from tests.export.registry_cache import parse_functions_once
parse_functions_once()
for basis, form, apart in (
    ("off", "rolled", True), ("off", "step", False), ("per_step", "rolled", False), ("tracked", "functions", False)
):
    path = Path(tempfile.mkdtemp()) / "m.onnx"
    _compiled("two_steps", "fp32", basis).to_onnx(path, form=form, verify=False, external_data=apart)
    files = sorted(path.parent.iterdir())
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
    print(basis, form, apart, *digests, *(p.name for p in files))
"""


def written(seed: str) -> list[str]:
    """What each file is, as a process with that seed of Python's hashes writes it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITES],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_two_processes_write_the_same_bytes() -> None:
    first, second = written("1"), written("2")
    assert len({line.split()[3] for line in first}) == len(first) == 4, "files of different options differ"
    assert first == second
