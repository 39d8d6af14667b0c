"""A model that magnifies rounding is verified where it can be, and a wrong file of it is refused all the same."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import VerificationError
from laser_fx.export import to_onnx, verify_exported, write_reference
from laser_fx.export.checksum import with_checksum
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import read_model_file
from laser_fx.export.sensitivity import nudged_file
from laser_fx.export.verify import verify_file

STEPS = 24


class Chaos(nn.Module):
    """Each step doubles and redoubles a difference: after some twenty, rounding is all that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        nn.init.orthogonal_(self.mix.weight)

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(STEPS):
            z = torch.sin(6.0 * self.mix(z)) + 0.1 * x
        return z


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    torch.manual_seed(0)
    return laser_fx.compile(Chaos().eval(), (torch.randn(4, 8),), options=laser_fx.Options.exact())


@pytest.fixture(scope="module")
def file(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chaos") / "chaos.onnx"
    compiled.to_onnx(path)
    return path


def test_a_chaotic_model_is_compared_where_it_is_shallow(compiled: CompiledModel, tmp_path: Path) -> None:
    verification = compiled.to_onnx(tmp_path / "chaos.onnx").verification
    assert any("as captured" in run or "rows" in run for run in verification.excused)
    assert not any("depth = 1," in run for run in verification.excused)
    assert verification.max_error < 1e-5


def test_where_nothing_can_be_compared_the_file_is_refused(compiled: CompiledModel, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="rounding alone"):
        to_onnx(compiled.program, tmp_path / "chaos.onnx", depth_inputs=False)
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_of_a_chaotic_model_is_refused(compiled: CompiledModel, file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    metadata = read_model_file(file).metadata
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "mix.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, bias.name))
    wrong = tmp_path / "wrong.onnx"
    del model.metadata_props[-1]  # the checksum of the right one
    wrong.write_bytes(with_checksum(model.SerializeToString()))
    with pytest.raises(VerificationError, match="differs by"):
        verify_file(compiled.program, wrong, metadata)


def test_levels_are_compared_where_the_file_is_shallow(file: Path) -> None:
    checked = verify_exported(file)
    assert checked.max_error < 1e-4
    assert any("depth = 1" in run for run in checked.runs)
    assert not any("depth = 1," in run for run in checked.excused)


def test_a_reference_that_cannot_be_compared_is_not_passed(compiled: CompiledModel, file: Path) -> None:
    reference = write_reference(compiled.program, file, file.with_name("r.safetensors"))
    with pytest.raises(VerificationError, match="could not be compared with those of the reference"):
        verify_exported(file, reference)


def test_a_nudged_file_is_the_same_but_for_its_weights(file: Path) -> None:
    read = read_model_file(file)
    off = nudged_file(read)
    assert off is not None
    before, after = ({t.name: numpy_helper.to_array(t) for t in f.model.graph.initializer} for f in (read, off))
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert {"mix.weight", "mix.bias"} <= changed
    for name in changed:
        assert abs(after[name] / before[name] - 1).max() < 1e-6
    assert [node.op_type for node in off.model.graph.node] == [node.op_type for node in read.model.graph.node]
    assert isinstance(off.metadata, FileMetadata)
