"""An export that is killed, or that finds the disk full, leaves the file that was there, or none."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laser_fx.errors import OutputPathError
from laser_fx.export import to_onnx
from tests.export.conftest import one_loop

KILLED = """
import os, signal, sys
from pathlib import Path
from laser_fx.export import to_onnx
from tests.export.conftest import one_loop
write = Path.write_bytes
Path.write_bytes = lambda self, content: (write(self, content[:100]), os.kill(os.getpid(), signal.SIGKILL))
to_onnx(one_loop(), sys.argv[1], overwrite=True)
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("before", [None, b"the file of yesterday"])
def test_a_killed_export_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "m.onnx"
    if before is not None:
        path.write_bytes(before)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=ROOT, capture_output=True, timeout=240, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (path.read_bytes() if path.exists() else None) == before
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert left.name.startswith(".m.onnx.")
    to_onnx(one_loop(), path, overwrite=True, verify=False)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> Any:
        with self.open("wb") as half:
            half.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputPathError, match="No space left"):
        to_onnx(one_loop(), tmp_path / "m.onnx", verify=False)
    assert list(tmp_path.iterdir()) == []
