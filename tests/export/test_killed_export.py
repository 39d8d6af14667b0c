"""An export that is killed, or that finds the disk full, leaves the file that was there, or none."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from laser_fx.errors import OutputPathError
from laser_fx.export import OnnxModel, to_onnx
from tests.export.conftest import one_loop

KILLED = """
import os, signal, sys
from pathlib import Path
from laser_fx.export import to_onnx
from tests.export.conftest import one_loop
write = Path.write_bytes
Path.write_bytes = lambda self, content: (write(self, content[:100]), os.kill(os.getpid(), signal.SIGKILL))
to_onnx(one_loop(), sys.argv[1], overwrite=True, form=sys.argv[2], external_data=sys.argv[3] == "apart")
"""
ROOT = Path(__file__).parents[2]


def killed(path: Path, form: str, apart: bool = False) -> None:
    """An export in a process of its own, killed when a part of the file is written."""
    command = [sys.executable, "-c", KILLED, str(path), form, "apart" if apart else "within"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("before", "form"),
    [(None, "rolled"), (b"the file of yesterday", "functions"), (b"the file of yesterday", "unrolled")],
)
def test_a_killed_export_leaves_what_was_there(tmp_path: Path, before: bytes | None, form: str) -> None:
    path = tmp_path / "m.onnx"
    if before is not None:
        path.write_bytes(before)
    killed(path, form)
    assert (path.read_bytes() if path.exists() else None) == before
    (left,) = (p for p in tmp_path.iterdir() if p != path)
    assert left.name.startswith(".m.onnx.")
    to_onnx(one_loop(), path, overwrite=True, verify=False)


def test_a_killed_export_leaves_the_old_weights_beside_the_old_file(tmp_path: Path) -> None:
    path, program = tmp_path / "m.onnx", one_loop(trips=4)
    to_onnx(program, path, external_data=True, verify=False)
    expected = OnnxModel(path)(*program.example_inputs)["y"]
    changed = {name: value * 2 for name, value in program.weights.items()}
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    killed(path, "rolled", apart=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert torch.equal(OnnxModel(path)(*program.example_inputs)["y"], expected)
    to_onnx(program.but(weights=changed), path, external_data=True, overwrite=True, verify=False)
    assert not torch.equal(OnnxModel(path)(*program.example_inputs)["y"], expected)


def test_a_killed_export_of_steps_leaves_the_old_one_whole(tmp_path: Path) -> None:
    path, program = tmp_path / "m.onnx", one_loop(trips=4)
    to_onnx(program, path, form="step", verify=False)
    expected = OnnxModel(path)(*program.example_inputs)["y"]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    killed(path, "step")
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert torch.equal(OnnxModel(path)(*program.example_inputs)["y"], expected)


@pytest.mark.parametrize("form", ["rolled", "functions", "step", "unrolled"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path, form: str, apart: bool) -> None:
    """The kernel itself refuses, in the middle of a write, as a full disk does."""
    own, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    program = one_loop()
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(OutputPathError, match="cannot be written"):
            to_onnx(program, tmp_path / "m.onnx", form=form, external_data=apart, verify=False)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (own, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> Any:
        with self.open("wb") as half:
            half.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputPathError, match="No space left"):
        to_onnx(one_loop(), tmp_path / "m.onnx", verify=False)
    assert list(tmp_path.iterdir()) == []
