"""Running a file: inputs by order, name and structure, depth and fidelity, and every way to get them wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import laser_fx
from laser_fx.errors import InputError, MissingDependencyError, OnnxFileError, OptionError
from laser_fx.export import OnnxFile, OnnxModel, to_onnx
from laser_fx.options import Options
from tests.small import WIDTH
from tests.small import model as small_model

Exported = Callable[[str], tuple[Any, OnnxFile]]


@dataclass
class Carry:
    z: Tensor
    label: str = "not a tensor"


@pytest.fixture
def case(exported: Exported) -> tuple[Any, OnnxModel]:
    program, file = exported("one_loop")
    return program, OnnxModel(file.path)


@pytest.fixture
def tracked(exported: Exported) -> tuple[Any, OnnxModel]:
    program, file = exported("tracked")
    return program, OnnxModel(file.path)


def same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert list(first) == list(second)
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]))


def test_names_and_order(case: tuple[Any, OnnxModel]) -> None:
    _, model = case
    assert model.input_names == ("batch.inputs", "carry.z")
    assert model.output_names == ("y", "carry.z", "last", "first")


def test_inputs_come_in_order_by_name_or_in_structures(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    expected = model(x, z)
    same(model(**{"batch.inputs": x, "carry.z": z}), expected)
    same(model(batch={"inputs": x}, carry={"z": z}), expected)
    same(model(batch={"inputs": x}, carry=Carry(z)), expected)
    same(model({"inputs": x}, Carry(z)), expected)
    same(model([x], (z,)), expected)
    same(model(x, carry=Carry(z)), expected)
    same(model({"inputs": x, "steps": 3}, z), expected)


def test_numpy_in_numpy_out_torch_in_torch_out(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    assert isinstance(model(x, z)["y"], Tensor)
    answers = model(x.numpy(), z.numpy())
    assert isinstance(answers["y"], np.ndarray)
    same(answers, model(x, z))


def test_tensors_that_need_gradients_or_are_views_are_taken(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    view = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    same(model(view, z), model(x, z))


def test_another_batch_size_is_taken(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = (torch.cat([value] * 3) for value in program.example_inputs)
    assert model(x, z)["y"].shape[0] == 6


def test_stats_are_those_of_the_last_call(tracked: tuple[Any, OnnxModel]) -> None:
    program, model = tracked
    assert model.stats == {}
    model(*program.example_inputs, depth=np.int64(6))
    assert model.stats["loop_0:up"].shape == (6, 5)


@pytest.mark.parametrize("depth", [0, -1, 2.0, True, "3"])
def test_a_depth_that_is_no_trip_count_is_refused(case: tuple[Any, OnnxModel], depth: Any) -> None:
    program, model = case
    with pytest.raises(OptionError, match="whole number"):
        model(*program.example_inputs, depth=depth)


@pytest.mark.parametrize(("used", "least"), [(-1, 1), (2, 3), (-4, 4)])
def test_a_depth_below_a_step_that_is_output_is_refused(
    make: Callable[..., Any], tmp_path: Path, used: int, least: int
) -> None:
    program = make("one_loop", used=used)
    model = OnnxModel(to_onnx(program, tmp_path / "m.onnx", verify=least == 3).path)
    (depth,) = model.metadata.depths
    assert (depth.default, depth.least) == (5, least)
    model(*program.example_inputs, depth=least)
    if least > 1:
        with pytest.raises(OptionError, match=f"step {least}"):
            model(*program.example_inputs, depth=least - 1)


def test_depths_of_several_loops_go_by_name(exported: Exported) -> None:
    program, file = exported("two_loops")
    model = OnnxModel(file.path)
    same(model(*program.example_inputs, depth={"loop_0": 2, "loop_1": 4}), model(*program.example_inputs))
    with pytest.raises(InputError, match="loop_0, loop_1"):
        model(*program.example_inputs, depth=3)
    with pytest.raises(InputError, match="loop_7"):
        model(*program.example_inputs, depth={"loop_7": 3})


def test_a_file_without_depth_says_so(exported: Exported) -> None:
    program, file = exported("per_step")
    with pytest.raises(InputError, match="none"):
        OnnxModel(file.path)(*program.example_inputs, depth=3)


@pytest.mark.parametrize("fidelity", [0.0, -0.5, 1.01, float("nan"), True, "high"])
def test_a_fidelity_out_of_range_is_refused(tracked: tuple[Any, OnnxModel], fidelity: Any) -> None:
    program, model = tracked
    with pytest.raises(OptionError, match=r"\(0, 1\]"):
        model(*program.example_inputs, fidelity=fidelity)


def test_a_file_that_tracks_nothing_has_no_fidelity(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    with pytest.raises(InputError, match="tracks nothing"):
        model(*program.example_inputs, fidelity=0.9)


@pytest.mark.parametrize("named", [{"halt_above": -1.0}, {"depht": 9}, {"flag": True}, {"mode": "fast"}])
def test_what_a_file_cannot_be_told_is_refused_and_not_ignored(case: tuple[Any, OnnxModel], named: Any) -> None:
    program, model = case
    with pytest.raises(InputError, match="was not exported with"):
        model(*program.example_inputs, **named)


def test_arguments_that_are_no_tensors_are_those_of_the_export(tmp_path: Path) -> None:
    def forward(self: Any, x: Tensor, scale: float, flag: bool = True) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.a(x) * scale) if flag else x
        return x

    x = torch.randn(3, WIDTH)
    compiled = laser_fx.compile(small_model(forward), (x, 2.0), {"flag": True}, options=Options.exact())
    model = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx").path)
    answers = model(x)
    same(model(x, 2.0, flag=True), answers)
    same(model(x=x, scale=2.0), answers)
    for inputs, named in (((x, 3.0), {}), ((x, 2.0), {"flag": False}), ((x,), {"scale": 3.0})):
        with pytest.raises(InputError, match="was not exported with"):
            model(*inputs, **named)


def test_wrong_inputs_are_named(case: tuple[Any, OnnxModel]) -> None:
    program, model = case
    x, z = program.example_inputs
    with pytest.raises(InputError, match="1 tensors came in order, 2"):
        model(x)
    with pytest.raises(InputError, match="3 tensors came"):
        model(x, z, z)
    with pytest.raises(InputError, match=r"no input 'carry\.y'"):
        model(x, carry={"y": z})
    with pytest.raises(InputError, match=r"'carry\.z' is float64, not float32"):
        model(x, z.double())
    with pytest.raises(InputError, match="bfloat16"):
        model(x, z.bfloat16())
    with pytest.raises(InputError, match=r"'batch\.inputs' has shape \(2, 3, 15\)"):
        model(x[..., :15], z)
    with pytest.raises(InputError, match="has shape"):
        model(x[0], z)
    with pytest.raises(InputError, match=r"'carry\.z' is a meta tensor"):
        model(x, z.to("meta"))
    with pytest.raises(InputError, match="batch 1, but"):
        model(x, z[:1])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OnnxFileError, match="no such file"):
        OnnxModel(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x08\x0a"])
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError) as caught:
        OnnxModel(path)
    assert str(path) in str(caught.value)


def test_a_truncated_file(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("one_loop")
    path = tmp_path / "m.onnx"
    path.write_bytes(file.path.read_bytes()[:-700])
    with pytest.raises(OnnxFileError):
        OnnxModel(path)


def rewritten(file: OnnxFile, path: Path, change: Callable[[dict[str, str]], Any]) -> Path:
    model = onnx.load(file.path)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    change(properties)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_a_file_of_another_tool_or_format(exported: Exported, tmp_path: Path) -> None:
    _, file = exported("one_loop")
    with pytest.raises(OnnxFileError, match="not written by laser-fx"):
        OnnxModel(rewritten(file, tmp_path / "a.onnx", dict.clear))
    with pytest.raises(OnnxFileError, match="format 99"):
        OnnxModel(rewritten(file, tmp_path / "b.onnx", lambda p: p.update({"laser_fx.format": "99"})))
    with pytest.raises(OnnxFileError, match="damaged"):
        OnnxModel(rewritten(file, tmp_path / "c.onnx", lambda p: p.update({"laser_fx.inputs": "["})))


@pytest.mark.parametrize("providers", ["CPUExecutionProvider", [], [3], [("CPUExecutionProvider",)]])
def test_providers_that_are_no_list_of_names(exported: Exported, providers: Any) -> None:
    with pytest.raises(OptionError, match="providers is "):
        OnnxModel(exported("one_loop")[1].path, providers=providers)


def test_an_unknown_provider(exported: Exported) -> None:
    _, file = exported("one_loop")
    with pytest.raises(OptionError, match="AbacusExecutionProvider") as caught:
        OnnxModel(file.path, providers=["AbacusExecutionProvider"])
    assert "CPUExecutionProvider" in str(caught.value)


def test_without_onnx_runtime(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = exported("one_loop")

    def missing(name: str, package: str | None = None) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'laser-fx\[cpu\]'"):
        OnnxModel(file.path)


def test_with_both_builds_of_onnx_runtime(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = exported("one_loop")
    monkeypatch.setattr(metadata, "distribution", lambda name: name)
    with pytest.raises(MissingDependencyError, match="pip uninstall onnxruntime onnxruntime-gpu"):
        OnnxModel(file.path)


def test_the_file_says_what_it_is(tracked: tuple[Any, OnnxModel]) -> None:
    program, model = tracked
    said = model.metadata
    assert said.form == "rolled"
    assert said.signature == "HandMade.run(*inputs)"
    assert said.fidelity == "fidelity"
    assert said.loops == ({"name": "loop_0", "level": 0, "trips": 4},)
    assert [site["name"] for site in said.sites] == ["up"]
    assert said.options["fidelity"] == program.options.fidelity
