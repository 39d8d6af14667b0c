"""Weights in a file of their own: written once, found again, and refused where they are not those of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from laser_fx.errors import OnnxFileError, VerificationError
from laser_fx.export import OnnxModel, to_onnx, verify_exported
from laser_fx.export.model_file import read_model_file
from tests.small import WIDTH, exact, looped

Make = Callable[..., Any]


@pytest.fixture
def apart(make: Make, tmp_path: Path) -> Path:
    """The main file of an export whose one weight of a kilobyte is beside it."""
    return to_onnx(make("one_loop"), tmp_path / "m.onnx", external_data=True).path


def _weights(main: Path) -> Path:
    (found,) = main.parent.glob("m.weights-*.bin")
    return found


@pytest.mark.parametrize("form", ["rolled", "functions", "unrolled"])
def test_a_file_with_its_weights_beside_it_answers_as_one_without(make: Make, tmp_path: Path, form: Any) -> None:
    program = make("two_loops")
    whole = to_onnx(program, tmp_path / "whole.onnx", form=form)
    split = to_onnx(program, tmp_path / "m.onnx", form=form, external_data=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", _weights(split.path).name, "whole.onnx"]
    assert split.bytes == split.path.stat().st_size + _weights(split.path).stat().st_size
    verify_exported(split.path)
    expected, actual = (OnnxModel(file.path)(*program.example_inputs) for file in (whole, split))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_weights_below_a_gigabyte_stay_in_the_file(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    program = make("one_loop")
    to_onnx(program, tmp_path / "small.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    monkeypatch.setattr("laser_fx.export.onnx._GIGABYTE", 1023)  # the weight has 1,024 bytes
    to_onnx(program, tmp_path / "m.onnx")
    assert _weights(tmp_path / "m.onnx").stat().st_size >= 1024


@pytest.mark.parametrize("form", ["rolled", "step"])
def test_weights_below_a_kilobyte_stay_in_the_file_though_they_were_to_leave_it(tmp_path: Path, form: Any) -> None:
    compiled = exact(looped(), torch.randn(2, WIDTH))
    compiled.to_onnx(tmp_path / "m.onnx", form=form, external_data=True)
    assert not list(tmp_path.glob("*.bin"))


def test_an_export_leaves_the_weights_of_its_neighbours(make: Make, tmp_path: Path) -> None:
    first = to_onnx(make("one_loop"), tmp_path / "m.onnx", external_data=True).path
    to_onnx(make("one_loop"), tmp_path / "m.model", external_data=True, verify=False)
    to_onnx(make("one_loop"), tmp_path / "m.model", external_data=False, verify=False, overwrite=True)
    verify_exported(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.model", "m.onnx", _weights(first).name]


def test_other_bytes_of_the_weights_are_seen(apart: Path) -> None:
    content = bytearray(_weights(apart).read_bytes())
    content[5] ^= 1
    _weights(apart).write_bytes(content)
    with pytest.raises(OnnxFileError, match="SHA-256"):
        OnnxModel(apart)


def test_missing_weights_are_told_of(apart: Path) -> None:
    name = _weights(apart).name
    _weights(apart).unlink()
    with pytest.raises(OnnxFileError, match=f"there is no file '{name}'"):
        OnnxModel(apart)


def test_a_link_in_their_place_is_refused(apart: Path, tmp_path: Path) -> None:
    weights = _weights(apart)
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OnnxFileError, match="symbolic link"):
        OnnxModel(apart)


@pytest.mark.parametrize("file", ["../m.bin", "/etc/passwd", "..", "a\\b", "c:x"])
def test_the_metadata_cannot_name_a_file_elsewhere(apart: Path, file: str) -> None:
    content = apart.read_bytes()
    model = onnx.load_from_string(content)
    entry = next(entry for entry in model.metadata_props if entry.key == "laser_fx.data")
    entry.value = entry.value.replace(_weights(apart).name, file.replace("\\", "\\\\"))
    del model.metadata_props[-1:]
    apart.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="data is no file of this folder"):
        read_model_file(apart)


def test_a_pipe_that_no_weight_is_in_is_not_opened(make: Make, tmp_path: Path, apart: Path) -> None:
    model = onnx.load(to_onnx(make("one_loop"), tmp_path / "whole.onnx").path)
    told = next(entry for entry in onnx.load(apart, load_external_data=False).metadata_props if "data" in entry.key)
    next(entry for entry in model.metadata_props if entry.key == told.key).value = told.value
    del model.metadata_props[-1:]
    weights = _weights(apart)
    weights.unlink()
    os.mkfifo(weights)
    (tmp_path / "whole.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="external data is in no file"):
        read_model_file(tmp_path / "whole.onnx")


def test_another_export_takes_the_old_weights_away(make: Make, apart: Path) -> None:
    old = _weights(apart)
    program = make("one_loop")
    changed = program.but(weights={**program.weights, "w": program.weights["w"] * 2})
    to_onnx(changed, apart, overwrite=True, external_data=True)
    assert _weights(apart) != old
    to_onnx(changed, apart, overwrite=True)
    assert [path.name for path in apart.parent.iterdir()] == ["m.onnx"]


def test_another_form_takes_the_files_of_the_old_one_away(make: Make, apart: Path) -> None:
    to_onnx(make("one_loop"), apart, overwrite=True, form="step")
    assert not list(apart.parent.glob("m.weights-*"))
    assert len(list(apart.parent.iterdir())) > 1
    to_onnx(make("one_loop"), apart, overwrite=True)
    assert [path.name for path in apart.parent.iterdir()] == ["m.onnx"]


def test_an_export_that_fails_leaves_what_was_there(make: Make, apart: Path, monkeypatch: Any) -> None:
    before = {path.name: path.read_bytes() for path in apart.parent.iterdir()}
    program = make("one_loop")

    def fail(*_: Any) -> None:
        raise VerificationError("it differs")

    monkeypatch.setattr("laser_fx.export.onnx.verify_file", fail)
    changed = program.but(weights={**program.weights, "w": program.weights["w"] * 2})
    for other in (program, changed):
        with pytest.raises(VerificationError):
            to_onnx(other, apart, overwrite=True, external_data=True)
        assert {path.name: path.read_bytes() for path in apart.parent.iterdir()} == before


def test_the_same_weights_give_the_same_files(make: Make, apart: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = to_onnx(make("one_loop"), tmp_path / "again" / "m.onnx", external_data=True).path
    assert again.read_bytes() == apart.read_bytes()
    assert _weights(again).read_bytes() == _weights(apart).read_bytes()
