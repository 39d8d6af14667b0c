"""Files whose metadata tells of another halting than their graph does: refused before they run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from laser_fx.errors import OnnxFileError
from laser_fx.export import to_onnx
from laser_fx.export.checksum import KEY
from laser_fx.export.model_file import read_model_file
from tests.export.halting_programs import halting

Change = Callable[[onnx.ModelProto], Any]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    """A file that halts, without the checksum that would tell of a change first."""
    path = tmp_path_factory.mktemp("good") / "m.onnx"
    model = onnx.load(to_onnx(halting(), path, halt="halt_logits", verify=False).path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def refused(good: onnx.ModelProto, change: Change, tmp_path: Path, said: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(good)
    change(model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=said) as caught:
        read_model_file(path)
    assert str(path) in str(caught.value)


def told(model: onnx.ModelProto, change: Callable[[Any], Any]) -> None:
    (entry,) = (e for e in model.metadata_props if e.key == "laser_fx.halt")
    entry.value = json.dumps(change(json.loads(entry.value)))


TAMPERED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nothing": (lambda _: None, "optional inputs are"),
    "a list": (lambda v: [v], "halt.default is"),
    "text": (lambda _: "halt_logits", "halt.default is"),
    "an output that is not there": (lambda v: {**v, "output": "other"}, "of no output"),
    "an output that is no text": (lambda v: {**v, "output": ["halt_logits"]}, "no name"),
    "an unknown way": (lambda v: {**v, "per": "row"}, "neither batch nor example"),
    "a way that is no text": (lambda v: {**v, "per": []}, "no name"),
    "an input that is not there": (lambda v: {**v, "above": "other"}, "optional inputs are"),
    "an input of another kind": (lambda v: {**v, "above": "depth"}, "optional inputs are"),
    "a name with control characters": (lambda v: {**v, "above": "\x1b[2J"}, "no name"),
    "steps that are not there": (lambda v: {**v, "steps": "other"}, "outputs are"),
    "steps that are an answer": (lambda v: {**v, "steps": "y"}, "outputs are"),
    "another threshold": (lambda v: {**v, "default": 1.0}, "default of 'halt_above' is not 1.0"),
    "a threshold that is true": (lambda v: {**v, "default": True}, "halt.default is"),
    "a threshold that is text": (lambda v: {**v, "default": "0"}, "halt.default is"),
    "no step at all": (lambda v: {**v, "least": 0}, "neither batch nor example|least"),
    "steps that are no number": (lambda v: {**v, "least": "1"}, "no count"),
    "steps beyond all bounds": (lambda v: {**v, "least": 10**30}, "no count"),
    "a field too many": (lambda v: {**v, "__class__": "os.system"}, "has not the fields"),
    "a field too few": (lambda v: {k: v[k] for k in v if k != "steps"}, "has not the fields"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_halting(good: onnx.ModelProto, case: str, tmp_path: Path) -> None:
    change, said = TAMPERED[case]
    refused(good, lambda model: told(model, change), tmp_path, said)


def test_a_copy_without_a_change_is_read(good: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(good.SerializeToString())
    halt = read_model_file(tmp_path / "m.onnx").metadata.halt
    assert (halt.output, halt.per, halt.above, halt.steps) == ("halt_logits", "batch", "halt_above", "steps_taken")


@pytest.mark.parametrize("value", [np.array(np.nan, np.float32), np.array(1.0, np.float32), np.array(0, np.int64)])
def test_another_threshold_in_the_graph(good: onnx.ModelProto, value: Any, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (stored,) = (t for t in model.graph.initializer if t.name == "halt_above")
        stored.CopyFrom(numpy_helper.from_array(value, "halt_above"))

    refused(good, change, tmp_path, "default of 'halt_above' is not 0.0")


def test_steps_of_another_dtype(good: onnx.ModelProto, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT

    refused(good, change, tmp_path, "steps taken are not int64")
