"""A Triton model repository: what its configuration says is what the file takes, and it appears whole or not at all."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.text_format import ParseError
from onnx import TensorProto

from laser_fx.errors import ExportError, InputError, LaserError, OnnxFileError, OptionError, OutputPathError
from laser_fx.export import OnnxFile, OnnxModel, serve_config, verify_exported
from laser_fx.export.checksum import KEY
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.triton import serve_config_of
from tests.export.triton_schema import parse, type_name

Exported = Callable[[str], tuple[Any, OnnxFile]]


def written(path: Path) -> Any:
    return parse((path / "config.pbtxt").read_text("ascii"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_configuration_is_what_the_file_takes(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("one_loop")
    served = serve_config(file.path, tmp_path / "models", queue_delay_us=250, max_batch=16)
    assert served.path == tmp_path / "models" / "one_loop"
    assert sorted(tree(served.path)) == ["1/model.onnx", "config.pbtxt"]
    assert (served.path / "1" / "model.onnx").read_bytes() == file.path.read_bytes()
    config = written(served.path)
    assert (config.name, config.backend) == ("one_loop", "onnxruntime")
    assert (config.max_batch_size, served.max_batch) == (16, 16)
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    session = OnnxModel(served.path / "1" / config.default_model_filename)._session
    for told, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [t.name for t in told] == [r.name for r in real]
        for mine, its in zip(told, real, strict=True):
            assert its.shape == ["batch", *mine.dims]
            assert (type_name(mine.data_type), its.type) == ("FP32", "tensor(float)")
    (warm,) = config.model_warmup
    assert {entry.key: list(entry.value.dims) for entry in warm.inputs} == {"batch.inputs": [3, 16], "carry.z": [3, 16]}
    assert all(entry.value.zero_data for entry in warm.inputs)
    assert any(note.startswith("depth: no inputs in Triton") for note in served.notes)


def test_statistics_are_not_served_and_shared_bases_are_told(exported: Exported, tmp_path: Path) -> None:
    served = serve_config(exported("tracked")[1].path, tmp_path)
    assert [output.name for output in written(served.path).output] == ["y"]
    assert any("statistics" in note for note in served.notes)
    assert any("bases are shared" in note for note in served.notes)


def test_an_output_without_a_batch_turns_batching_off(exported: Exported, tmp_path: Path) -> None:
    served = serve_config(exported("per_step")[1].path, tmp_path)
    config = written(served.path)
    assert config.max_batch_size == served.max_batch == 0
    assert not config.HasField("dynamic_batching")
    assert [list(output.dims) for output in config.output] == [[-1, 3, 16], [-1, 3, 16]]
    assert any("'count' has no leading batch dimension" in note for note in served.notes)
    assert any("'count' has no dimensions: not served" in note for note in served.notes)
    assert list(config.model_warmup[0].inputs[0].value.dims) == [1, 3, 16]


def test_batching_can_be_left_out(exported: Exported, tmp_path: Path) -> None:
    config = written(serve_config(exported("one_loop")[1].path, tmp_path, max_batch=0).path)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 3, 16]


def config_of(inputs: dict[str, tuple[int, list[Any]]], conditions: tuple[str, ...] = (), **options: int) -> Any:
    values = [onnx.helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in inputs.items()]
    outputs = [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])]
    graph = onnx.helper.make_graph([], "g", values, outputs)
    metadata = FileMetadata(form="rolled", inputs=tuple(inputs), outputs=(("y", "y"),), conditions=conditions)
    return serve_config_of("m", metadata, graph, **{"max_batch": 8, "queue_delay_us": 0, **options})


def test_names_dtypes_and_rows_that_are_one_number() -> None:
    odd = 'a"b\\c\n\u00e9'
    made = config_of({odd: (TensorProto.INT64, ["batch"]), "mask": (TensorProto.BOOL, ["batch", "2*tokens", 3])})
    config = parse(made.text)
    first, second = config.input
    assert first.name == odd
    assert (type_name(first.data_type), list(first.dims), list(first.reshape.shape)) == ("INT64", [1], [])
    assert first.HasField("reshape")
    assert (type_name(second.data_type), list(second.dims)) == ("BOOL", [-1, 3])
    assert list(config.output[0].dims) == [-1]
    assert [list(entry.value.dims) for entry in config.model_warmup[0].inputs] == [[1], [2, 3]]


def test_a_warm_up_has_sizes_that_the_file_holds_for() -> None:
    inputs = {
        "x": (TensorProto.FLOAT, ["batch", "tokens"]),
        "table": (TensorProto.FLOAT, ["batch", "tokens + 1"]),
    }
    (warm_up,) = parse(config_of(inputs, ("tokens > 4", "tokens % 2 == 0")).text).model_warmup
    assert warm_up.batch_size == 6
    assert [list(entry.value.dims) for entry in warm_up.inputs] == [[6], [7]]
    made = config_of(inputs, ("tokens > 400",))
    assert not parse(made.text).model_warmup
    assert "no warm-up" in made.notes[0]


def test_requests_are_not_put_together_where_the_batch_is_in_another_dimension_too() -> None:
    made = config_of({"x": (TensorProto.FLOAT, ["batch", 3]), "pairs": (TensorProto.FLOAT, ["batch", "2*batch"])})
    assert made.max_batch == 0
    assert "'pairs'" in made.notes[0]
    assert [list(entry.value.dims) for entry in parse(made.text).model_warmup[0].inputs] == [[1, 3], [1, 2]]


def test_what_triton_cannot_take_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match="no input without dimensions") as caught:
        config_of({"x": (TensorProto.FLOAT, []), "z": (TensorProto.FLOAT, ["batch"])})
    assert "x" in str(caught.value)
    with pytest.raises(ExportError, match="no such dtype"):
        config_of({"x": (TensorProto.COMPLEX64, ["batch"])})


def test_the_parser_refuses_what_triton_would() -> None:
    for text in ("max_batch_sise: 1", "input { dims: [ x ] }", "input { data_type: TYPE_FLOAT }", "input ["):
        with pytest.raises(ParseError):
            parse(text)


def test_depth_and_fidelity_can_be_set_in_the_served_copy(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("tracked")
    served = serve_config(file.path, tmp_path, depth=6, fidelity=0.5, name="deeper")
    copy = served.path / "1" / "model.onnx"
    assert verify_exported(copy).checksum
    model, original = OnnxModel(copy), OnnxModel(file.path)
    assert model.metadata.depths[0].default == 6
    assert model.metadata.loops[0]["trips"] == 6
    expected = original(*program.example_inputs, depth=6, fidelity=0.5)
    np.testing.assert_array_equal(model(*program.example_inputs)["y"], expected["y"])


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("one_loop", {"fidelity": 0.5}, InputError),
        ("two_loops", {"depth": 3}, InputError),
        ("per_step", {"depth": 3}, InputError),
        ("one_loop", {"depth": 0}, OptionError),
        ("one_loop", {"depth": 10**7}, OptionError),
        ("tracked", {"fidelity": 1.5}, OptionError),
        ("one_loop", {"max_batch": -1}, OptionError),
        ("one_loop", {"max_batch": True}, OptionError),
        ("one_loop", {"queue_delay_us": 2**40}, OptionError),
        ("one_loop", {"name": "../up"}, OptionError),
        ("one_loop", {"name": ".hidden"}, OptionError),
        ("one_loop", {"name": ""}, OptionError),
    ],
)
def test_wrong_options_leave_nothing(
    exported: Exported, tmp_path: Path, name: str, options: dict[str, Any], kind: type[LaserError]
) -> None:
    with pytest.raises(kind):
        serve_config(exported(name)[1].path, tmp_path / "models", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_ours_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not onnx")
    with pytest.raises(OnnxFileError):
        serve_config(tmp_path / "m.onnx", tmp_path / "models")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_a_model_is_replaced_when_told_and_others_stay(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("one_loop")
    serve_config(file.path, tmp_path)
    serve_config(file.path, tmp_path, name="other")
    before = tree(tmp_path)
    with pytest.raises(OutputPathError, match="there already"):
        serve_config(file.path, tmp_path, max_batch=2)
    assert tree(tmp_path) == before
    serve_config(file.path, tmp_path, max_batch=2, overwrite=True)
    assert written(tmp_path / "one_loop").max_batch_size == 2
    assert sorted(tree(tmp_path)) == sorted(before)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_what_was_there(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    _, file = exported("one_loop")
    if overwrite:
        serve_config(file.path, tmp_path / "models")
    before = tree(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputPathError, match="No space left"):
        serve_config(file.path, tmp_path / "models", overwrite=overwrite)
    assert tree(tmp_path) == before
    assert (tmp_path / "models").exists() == overwrite


def test_a_rename_that_fails_puts_the_old_model_back(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = exported("one_loop")
    serve_config(file.path, tmp_path)
    before, rename = tree(tmp_path), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OutputPathError, match="Input/output"):
        serve_config(file.path, tmp_path, max_batch=2, overwrite=True)
    assert tree(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from laser_fx.export import serve_config
write = Path.write_bytes
Path.write_bytes = lambda self, content: (write(self, content[:100]), os.kill(os.getpid(), signal.SIGKILL))
serve_config(sys.argv[1], sys.argv[2], overwrite=True)
"""


def test_a_killed_process_leaves_no_half_of_a_model(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("one_loop")
    served = serve_config(file.path, tmp_path)
    before = tree(served.path)
    command = [sys.executable, "-c", KILLED, str(file.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert tree(served.path) == before
    left = [path.name for path in tmp_path.iterdir() if path != served.path]
    assert all(name.startswith(".one_loop.") and name.endswith(".tmp") for name in left)


def test_external_data_comes_along(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("one_loop")
    model = onnx.load(file.path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    (stored,) = (t for t in model.graph.initializer if t.name == "w")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(stored.raw_data)
    stored.ClearField("raw_data")
    stored.data_location = TensorProto.EXTERNAL
    stored.external_data.add(key="location", value="data/w.bin")
    (tmp_path / "big.onnx").write_bytes(model.SerializeToString())
    served = serve_config(tmp_path / "big.onnx", tmp_path / "models")
    shutil.rmtree(tmp_path / "data")
    expected = OnnxModel(file.path)(*program.example_inputs)["y"]
    np.testing.assert_array_equal(OnnxModel(served.path / "1" / "model.onnx")(*program.example_inputs)["y"], expected)
