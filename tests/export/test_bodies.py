"""The form `functions`: bodies as ONNX functions, called step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from laser_fx.errors import ExportError, OnnxFileError
from laser_fx.export import OnnxModel, to_onnx, verify_exported
from laser_fx.export.bodies import BODY_DOMAIN, call_bodies
from laser_fx.export.graphs import nodes
from laser_fx.export.model_file import read_model_file

Make = Callable[..., Any]
NAMES = ("one_loop", "nested", "per_step", "two_loops", "tracked")


def _calls(place: Any) -> Counter[str]:
    return Counter(node.op_type for node in place.node if node.domain == BODY_DOMAIN)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_functions_answers_as_the_program_does(make: Make, tmp_path: Path, name: str) -> None:
    program = make(name)
    file = to_onnx(program, tmp_path / "m.onnx", form="functions")
    assert file.form == "functions"
    assert file.verification is not None
    assert file.verification.max_error < 1e-5
    onnx.checker.check_model(str(file.path), full_check=True)
    verify_exported(file.path)
    answers = OnnxModel(file.path)(*program.example_inputs)
    for actual, expected in zip(answers.values(), program.run(*program.example_inputs), strict=False):
        expected = torch.stack([torch.stack(row) for row in expected]) if isinstance(expected, list) else expected
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_every_body_is_written_once_and_called_as_often_as_it_runs(make: Make, tmp_path: Path) -> None:
    model = onnx.load(to_onnx(make("nested"), tmp_path / "m.onnx", form="functions").path)
    bodies = {function.name: function for function in model.functions if function.domain == BODY_DOMAIN}
    assert bodies.keys() == {"loop_0", "loop_0_0"}
    assert _calls(model.graph) == {"loop_0": 2}
    assert _calls(bodies["loop_0"]) == {"loop_0_0": 3}
    assert not any(node.op_type in ("Loop", "If", "Scan") for node in nodes(model))


def test_the_rolled_and_the_called_file_agree_in_every_bit(make: Make, tmp_path: Path) -> None:
    program = make("nested")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    rolled, called = (
        OnnxModel(to_onnx(program, tmp_path / f"{form}.onnx", form=form).path, session_options=settings)
        for form in ("rolled", "functions")
    )
    expected, actual = rolled(*program.example_inputs), called(*program.example_inputs)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_deeper_file_grows_by_its_calls_alone(make: Make, tmp_path: Path) -> None:
    small, large = (
        to_onnx(make("one_loop", trips=trips), tmp_path / f"{trips}.onnx", form="functions", verify=False)
        for trips in (10, 40)
    )
    assert large.nodes - small.nodes == 30
    assert large.bytes - small.bytes < 30 * 300


def test_weights_are_stored_once_and_are_inputs_of_the_functions(make: Make, tmp_path: Path) -> None:
    program = make("nested")
    model = onnx.load(to_onnx(program, tmp_path / "m.onnx", form="functions").path)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    for weight in program.weights.values():
        assert sum(np.array_equal(weight.numpy(), array) for array in stored) == 1
    for function in model.functions:
        for node in function.node:
            assert all(len(attribute.t.raw_data) <= 1024 for attribute in node.attribute)


def test_a_free_depth_cannot_be_written_as_calls() -> None:
    count = ir.val("depth", ir.DataType.INT64, [])
    body = ir.Graph([], [], nodes=[], name="body")
    loop = ir.Node("", "Loop", [count, None], [ir.AttrGraph("body", body)], num_outputs=0, name="loop_0")
    graph = ir.Graph([count], [], nodes=[loop], opset_imports={"": 20}, name="main")
    with pytest.raises(ExportError, match="not a constant"):
        call_bodies(ir.Model(graph, ir_version=10))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda model: model.graph.node.remove(_first_call(model)), "does not run 2 times"),
        (lambda model: model.functions.remove(_body(model, "loop_0_0")), "its loops are 'loop_0', the metadata says"),
        (lambda model: setattr(_body(model, "loop_0"), "name", "other"), "its loops are"),
    ],
    ids=["a call less", "no body", "a renamed body"],
)
def test_calls_that_the_metadata_does_not_tell_of_are_refused(
    make: Make, tmp_path: Path, change: Callable[[onnx.ModelProto], Any], complaint: str
) -> None:
    model = onnx.load(to_onnx(make("nested"), tmp_path / "m.onnx", form="functions", verify=False).path)
    del model.metadata_props[-1:]  # the checksum
    change(model)
    (tmp_path / "changed.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match=complaint):
        read_model_file(tmp_path / "changed.onnx")


def _first_call(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.domain == BODY_DOMAIN)


def _body(model: onnx.ModelProto, name: str) -> onnx.FunctionProto:
    return next(f for f in model.functions if f.domain == BODY_DOMAIN and f.name == name)
