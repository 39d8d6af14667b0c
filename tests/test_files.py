"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from laser_fx.errors import OutputPathError
from laser_fx.files import check_target, replacing


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with replacing(path, overwrite=False) as beside:
        beside.write_bytes(b"content")
        assert not path.exists()
        assert beside.parent == tmp_path
    assert path.read_bytes() == b"content"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path: Path) -> None:
    path = tmp_path / ("m" * 250 + ".onnx")
    with replacing(path, overwrite=False) as beside:
        beside.write_bytes(b"content")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("name", "said"), [("m" * 300, "File name too long"), ("m\0.onnx", "null byte")])
def test_a_path_that_cannot_be_is_refused_before_the_work(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(OutputPathError, match=said):
        check_target(tmp_path / name, overwrite=True)


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")

    def fail() -> None:
        with replacing(path, overwrite=True) as beside:
            beside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(OutputPathError, match="overwrite=True"), replacing(path, overwrite=False):
        pass
    with replacing(path, overwrite=True) as beside:
        beside.write_bytes(b"after")
    assert path.read_bytes() == b"after"


def test_what_a_disk_refuses_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputPathError, match="No space left"), replacing(tmp_path / "m.onnx", overwrite=False):
        raise OSError(28, "No space left on device")


def test_a_closed_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputPathError, match="not writable"), replacing(tmp_path / "m.onnx", overwrite=False):
        pass
