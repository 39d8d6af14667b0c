"""Parts that are missing, tampered with, or of another export: the main file says so before anything runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from laser_fx.errors import OnnxFileError
from laser_fx.export import OnnxModel, to_onnx
from laser_fx.export.checksum import KEY
from laser_fx.export.model_file import read_model_file
from tests.export.conftest import one_loop, tracked


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "m.onnx"
    to_onnx(one_loop(), path, form="step", verify=False)
    return path


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good.parent, tmp_path / "m")) / "m.onnx"


def part(path: Path, role: str) -> Path:
    (found,) = path.parent.glob(f"m.{role}-*.onnx")
    return found


def refused(path: Path, said: str) -> None:
    with pytest.raises(OnnxFileError, match=said):
        OnnxModel(path)


def replan(path: Path, change: Callable[[Any], Any]) -> Path:
    model = onnx.load(path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (entry,) = (e for e in model.metadata_props if e.key == "laser_fx.step")
    entry.value = json.dumps(change(json.loads(entry.value)))
    path.write_bytes(model.SerializeToString())
    return path


def test_a_copy_of_all_files_is_read(copied: Path) -> None:
    assert set(read_model_file(replan(copied, lambda plan: plan)).parts) == {"start", "finish"}


@pytest.mark.parametrize("role", ["start", "finish"])
def test_a_part_that_is_missing_damaged_or_a_link(copied: Path, role: str, tmp_path: Path) -> None:
    here = part(copied, role)
    content = here.read_bytes()
    here.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(copied, f"the {role} of the file is not the one|damaged")
    here.unlink()
    refused(copied, f"the {role} of the file is missing")
    (tmp_path / "elsewhere").write_bytes(content)
    here.symlink_to(tmp_path / "elsewhere")
    refused(copied, "no plain file")


def test_a_part_of_another_export(copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    changed = one_loop()
    to_onnx(changed.but(output_names=("a", "b", "c", "d")), other / "m.onnx", form="step", verify=False)
    shutil.copyfile(part(other / "m.onnx", "finish"), part(copied, "finish"))
    refused(copied, "not the one that was exported with it")


HOSTILE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a path out of the folder": (lambda p: _part(p, file="../secret"), "no name of a file"),
    "an absolute path": (lambda p: _part(p, file="/etc/passwd"), "no name of a file"),
    "a drive": (lambda p: _part(p, file="C:secret"), "no name of a file"),
    "dots": (lambda p: _part(p, file=".."), "no name of a file"),
    "a digest that is none": (lambda p: _part(p, sha256="0" * 63), "SHA-256"),
    "a role that is none": (lambda p: _part(p, role="evil"), "not one of"),
    "a role twice": (lambda p: {**p, "parts": p["parts"][:1] * 2}, "twice"),
    "a state that nothing makes": (lambda p: {**p, "states": [{**p["states"][0], "first": "q"}]}, "nothing makes"),
    "a following that nothing makes": (lambda p: {**p, "states": [{**p["states"][0], "following": "q"}]}, "makes"),
    "no states": (lambda p: {**p, "states": []}, "nothing makes"),
    "no plan": (lambda _: None, "plan of steps"),
    "steps below one": (lambda p: {**p, "trips": 0}, "step.trips"),
    "steps beyond all bounds": (lambda p: {**p, "trips": 10**9}, "step.trips"),
    "a step that is no number": (lambda p: {**p, "kept": [{**p["kept"][0], "index": "0"}]}, "no step"),
    "a field too many": (lambda p: {**p, "__class__": "os"}, "has not the fields"),
    "another signature": (lambda p: {**p, "signature": p["signature"][::-1]}, "signature"),
    "another type": (lambda p: _signature(p, type="tensor(double)"), "says otherwise"),
    "another shape": (lambda p: _signature(p, shape=[9]), "says otherwise"),
    "halting of nothing": (lambda p: {**p, "halted": "loop_0/z"}, "halted"),
}


def _part(plan: Any, **changes: Any) -> Any:
    return {**plan, "parts": [{**plan["parts"][0], **changes}, *plan["parts"][1:]]}


def _signature(plan: Any, **changes: Any) -> Any:
    return {**plan, "signature": [{**entry, **changes} for entry in plan["signature"]]}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_plan_that_was_changed(copied: Path, case: str) -> None:
    change, said = HOSTILE[case]
    refused(replan(copied, change), said)


HOSTILE_BASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no bases": (lambda p: {**p, "bases": None}, "do not go with"),
    "no refresh": (lambda p: {**p, "parts": [x for x in p["parts"] if x["role"] != "refresh"]}, "do not go with"),
    "nothing held": (lambda p: _bases(p, held=[]), "are none"),
    "nothing measured": (lambda p: {**p, "min_fidelity": None}, "nothing measures them"),
    "a threshold of none": (lambda p: _bases(p, threshold=None), "not in"),
    "a threshold out of range": (lambda p: _bases(p, threshold=1.5), "not in"),
    "a threshold that is no number": (lambda p: _bases(p, threshold=float("nan")), "not in|damaged"),
    "an input that the refresh has not": (lambda p: _bases(p, keep_at="q"), "the refresh wants"),
    "a basis that begins as nothing": (lambda p: _held(p, first="q"), "nothing makes"),
    "a basis that nothing follows": (lambda p: _held(p, following="q"), "nothing makes"),
    "a basis that is a state": (lambda p: _held(p, name=p["states"][0]["name"]), "twice"),
    "a field too many": (lambda p: _bases(p, code="os"), "has not the fields"),
}


def _bases(plan: Any, **changes: Any) -> Any:
    return {**plan, "bases": {**plan["bases"], **changes}}


def _held(plan: Any, **changes: Any) -> Any:
    return _bases(plan, held=[{**plan["bases"]["held"][0], **changes}])


@pytest.fixture(scope="module")
def with_bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bases") / "m.onnx"
    to_onnx(tracked(), path, form="step", verify=False)
    return path


@pytest.mark.parametrize("case", HOSTILE_BASES)
def test_bases_that_were_changed(with_bases: Path, tmp_path: Path, case: str) -> None:
    change, said = HOSTILE_BASES[case]
    refused(replan(Path(shutil.copytree(with_bases.parent, tmp_path / "m")) / "m.onnx", change), said)


def test_an_export_over_another_leaves_no_part_of_it(copied: Path) -> None:
    before = set(copied.parent.iterdir())
    changed = one_loop().but(output_names=("a", "b", "c", "d"))
    written = to_onnx(changed, copied, form="step", verify=False, overwrite=True)
    assert set(copied.parent.iterdir()) == {copied, *written.parts} != before
    assert dataclasses.is_dataclass(read_model_file(copied).metadata.step)


def test_a_main_file_that_cannot_be_renamed_leaves_the_old_export(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in copied.parent.iterdir()}
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target == copied:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        to_onnx(one_loop().but(output_names=("a", "b", "c", "d")), copied, form="step", verify=False, overwrite=True)
    assert {path: path.read_bytes() for path in copied.parent.iterdir()} == before
