"""Checking a file without its model: levels against each other, answers against a reference batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import helper, numpy_helper

from laser_fx.errors import InputError, OnnxFileError, OutputPathError, VerificationError
from laser_fx.export import OnnxFile, verify_exported, write_reference
from laser_fx.export.checksum import KEY, with_checksum

Exported = Callable[[str], tuple[Any, OnnxFile]]


@pytest.mark.parametrize("name", ["one_loop", "nested", "per_step", "two_loops", "tracked"])
def test_a_good_file_holds_with_its_reference_and_without(exported: Exported, tmp_path: Path, name: str) -> None:
    program, file = exported(name)
    reference = write_reference(program, file.path, tmp_path / "r.safetensors")
    checked = verify_exported(file.path, reference)
    assert checked.checksum
    assert checked.max_error < 1e-5
    assert checked.levels == ("ORT_ENABLE_BASIC", "ORT_ENABLE_ALL")
    assert checked.runs[-1] == "the reference batch"
    without = verify_exported(file.path)
    assert without.runs == checked.runs[:-1]
    assert without.reference is None
    depths = len(program.graph_module.graph.find_nodes(op="call_module")) if name != "per_step" else 0
    assert len(without.runs) == 2 + 2 * depths


def edited(file: OnnxFile, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """An edit with a checksum of its own: what only answers can tell."""
    model = onnx.load(file.path)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    change(model)
    path.write_bytes(with_checksum(model.SerializeToString()))
    return path


def test_another_weight_is_told_by_the_reference_alone(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("one_loop")
    reference = write_reference(program, file.path, tmp_path / "r.safetensors")

    def change(model: onnx.ModelProto) -> None:
        (stored,) = (t for t in model.graph.initializer if t.name == "w")
        stored.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(stored), "w"))

    path = edited(file, tmp_path / "m.onnx", change)
    verify_exported(path)
    with pytest.raises(VerificationError, match=r"differs by .* \(against the reference\)") as caught:
        verify_exported(path, reference)
    assert "the reference batch, ORT_ENABLE_BASIC" in str(caught.value)


def test_a_fusion_that_gives_other_numbers_is_found(exported: Exported, tmp_path: Path) -> None:
    """ONNX Runtime fuses Transpose and MatMul with a one-dimensional operand wrongly at the higher level."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        last = graph.output[2].name
        shape = numpy_helper.from_array(np.array([3], np.int64), "three")
        square = numpy_helper.from_array(np.arange(9, dtype=np.float32).reshape(3, 3) / 9, "square")
        graph.initializer.extend([shape, square, numpy_helper.from_array(np.array(0, np.int64), "zero")])
        graph.node.extend(
            [
                helper.make_node("Gather", [last, "zero"], ["row"], axis=0),
                helper.make_node("Add", ["square", "row"], ["mixed"]),
                helper.make_node("Transpose", ["mixed"], ["turned"], perm=[1, 0]),
                helper.make_node("MatMul", ["turned", "row"], ["product"]),
            ]
        )
        graph.output.append(helper.make_tensor_value_info("product", onnx.TensorProto.FLOAT, [3]))
        (entry,) = (e for e in model.metadata_props if e.key == "laser_fx.outputs")
        entry.value = entry.value[:-1] + ', ["product", "product"]]'

    path = edited(exported("one_loop")[1], tmp_path / "m.onnx", change)
    with pytest.raises(VerificationError, match=r"'product' .*\(against ORT_ENABLE_BASIC\)") as caught:
        verify_exported(path)
    assert "ORT_ENABLE_ALL" in str(caught.value)


def test_a_file_that_does_not_run_is_an_error(exported: Exported, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (gather,) = (node for node in model.graph.node if node.op_type == "Gather")
        (index,) = (t for t in model.graph.initializer if t.name == gather.input[1])
        index.CopyFrom(numpy_helper.from_array(np.array(99, np.int64), index.name))

    path = edited(exported("one_loop")[1], tmp_path / "m.onnx", change)
    with pytest.raises(OnnxFileError, match="does not run"):
        verify_exported(path)


def test_a_reference_of_another_model_is_refused(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("one_loop")
    reference = write_reference(program, file.path, tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="another model"):
        verify_exported(exported("nested")[1].path, reference)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_a_damaged_reference_is_refused(exported: Exported, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.safetensors"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match="no safetensors"):
        verify_exported(exported("one_loop")[1].path, path)


def test_other_safetensors_are_no_reference(exported: Exported, tmp_path: Path) -> None:
    safetensors.numpy.save_file({"weight": np.ones(3)}, tmp_path / "r.safetensors")
    with pytest.raises(InputError, match="no reference batch"):
        verify_exported(exported("one_loop")[1].path, tmp_path / "r.safetensors")
    with pytest.raises(OnnxFileError, match="no such file"):
        verify_exported(exported("one_loop")[1].path, tmp_path / "none.safetensors")


def test_a_reference_replaces_nothing_unless_told(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("one_loop")
    path = write_reference(program, file.path, tmp_path / "r.safetensors")
    with pytest.raises(OutputPathError):
        write_reference(program, file.path, path)
    before = path.read_bytes()
    write_reference(program, file.path, path, overwrite=True)
    assert path.read_bytes() == before
