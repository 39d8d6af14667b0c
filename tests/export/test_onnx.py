"""What a written file holds, and that it answers as the program does."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from laser_fx.errors import ExportError, OptionError, OutputPathError, VerificationError
from laser_fx.export import OnnxModel, to_onnx
from tests.export.files import graphs, operators

NAMES = ("one_loop", "nested", "per_step", "two_loops", "tracked")
Make = Callable[..., Any]


@pytest.mark.parametrize("name", NAMES)
def test_a_rolled_file_answers_as_the_program_does(exported: Make, name: str) -> None:
    program, file = exported(name)
    onnx.checker.check_model(str(file.path), full_check=True)
    assert file.verification.max_error < 1e-5
    assert file.verification.excused == ()
    assert "another batch size" in file.verification.runs
    assert file.bytes == file.path.stat().st_size
    answers = OnnxModel(file.path)(*program.example_inputs)
    for actual, expected in zip(answers.values(), program.run(*program.example_inputs), strict=False):
        expected = torch.stack([torch.stack(row) for row in expected]) if isinstance(expected, list) else expected
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "loops"), [("one_loop", 1), ("nested", 2), ("per_step", 1), ("two_loops", 2)])
def test_every_loop_is_one_loop_node(exported: Make, name: str, loops: int) -> None:
    _, file = exported(name)
    counted = operators(file.path)
    assert counted["Loop"] == loops
    assert file.nodes == counted.total()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_stored_once_and_only_in_the_main_graph(exported: Make, name: str) -> None:
    program, file = exported(name)
    main, *inner = graphs(onnx.load(file.path).graph)
    assert not any(graph.initializer for graph in inner)
    stored = [onnx.numpy_helper.to_array(initializer) for initializer in main.initializer]
    for weight in program.weights.values():
        if weight.ndim:
            assert sum(np.array_equal(weight.numpy(), array) for array in stored) == 1


def test_size_does_not_grow_with_depth(make: Make, tmp_path: Path) -> None:
    sizes = [
        to_onnx(make("one_loop", trips=trips), tmp_path / f"{trips}.onnx", verify=False).bytes for trips in (3, 60)
    ]
    assert abs(sizes[0] - sizes[1]) < 64


def test_weights_have_the_names_of_the_state_dict(make: Make, tmp_path: Path) -> None:
    program = make("one_loop").but(weight_names={"w": "layer.weight", "b": "y"})  # y is an output
    graph = onnx.load(to_onnx(program, tmp_path / "m.onnx").path).graph
    assert {"layer.weight", "weight.y"} <= {tensor.name for tensor in graph.initializer}


@pytest.mark.parametrize("form", ["rolled", "functions", "unrolled"])
@pytest.mark.parametrize("names", [("constant_0", "constant_1", "depth"), ("step_0", "front", "step_1")])
def test_a_weight_may_be_called_as_constants_and_inputs_of_a_file_are(
    make: Make, tmp_path: Path, form: Any, names: tuple[str, ...]
) -> None:
    program = make("per_step").but(weight_names=dict(zip(("w", "e0", "e1"), names, strict=True)))
    file = to_onnx(program, tmp_path / "m.onnx", form=form)
    assert {f"weight.{name}" for name in names} <= {tensor.name for tensor in onnx.load(file.path).graph.initializer}


def test_value_names_are_unique_over_all_scopes(exported: Make) -> None:
    _, file = exported("nested")
    names = [
        name
        for graph in graphs(onnx.load(file.path).graph)
        for name in (*(i.name for i in graph.input), *(o for node in graph.node for o in node.output))
    ]
    assert max(Counter(names).values()) == 1


@pytest.mark.parametrize("depth", [1, 2, 5, 9])
def test_depth_is_the_trip_count_of_the_outermost_loop(exported: Make, make: Make, depth: int) -> None:
    program, file = exported("one_loop")
    expected = make("one_loop", trips=depth).run(*program.example_inputs)
    answers = OnnxModel(file.path)(*program.example_inputs, depth=depth)
    for actual, value in zip(answers.values(), expected, strict=True):
        torch.testing.assert_close(actual, value, atol=1e-5, rtol=1e-5)


def test_step_outputs_grow_with_depth(exported: Make) -> None:
    program, file = exported("nested")
    model = OnnxModel(file.path)
    assert model(*program.example_inputs)["sums"].shape == (2, 3, 2)
    assert model(*program.example_inputs, depth=6)["sums"].shape == (6, 3, 2)


def test_depth_inputs_can_be_left_out(make: Make, tmp_path: Path) -> None:
    file = to_onnx(make("one_loop"), tmp_path / "m.onnx", depth_inputs=False, verify=False)
    assert [i.name for i in onnx.load(file.path).graph.input] == ["batch.inputs", "carry.z"]


def test_a_loop_with_per_step_values_has_no_depth(exported: Make) -> None:
    _, file = exported("per_step")
    assert [i.name for i in onnx.load(file.path).graph.input] == ["x"]


def test_several_outermost_loops_have_a_depth_each(exported: Make) -> None:
    _, file = exported("two_loops")
    assert [i.name for i in onnx.load(file.path).graph.input] == ["x", "depth_loop_0", "depth_loop_1"]


def test_optional_inputs_do_not_take_a_users_name(make: Make, tmp_path: Path) -> None:
    program = make("one_loop").but(renamed={"x": "depth"})
    file = to_onnx(program, tmp_path / "m.onnx")
    assert [i.name for i in onnx.load(file.path).graph.input] == ["depth", "z", "laser.depth"]


def test_the_shared_leading_dimension_is_called_batch(exported: Make) -> None:
    _, file = exported("one_loop")
    graph = onnx.load(file.path).graph
    for value in (*graph.input[:2], *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_graph_without_dynamic_sizes_has_none(make: Make, tmp_path: Path) -> None:
    file = to_onnx(make("one_loop", dynamic=False), tmp_path / "m.onnx")
    assert "another batch size" not in file.verification.runs
    assert onnx.load(file.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2


def test_nodes_are_named_after_their_loop(exported: Make) -> None:
    _, file = exported("nested")
    main, outer, inner = graphs(onnx.load(file.path).graph)
    assert all(node.name.startswith("loop_0/") for node in outer.node)
    assert all(node.name.startswith("loop_0_0/") for node in inner.node)
    assert "loop_0" in [node.name for node in main.node]


def test_the_same_program_gives_the_same_bytes(exported: Make, make: Make, tmp_path: Path) -> None:
    _, file = exported("tracked")
    again = to_onnx(make("tracked"), tmp_path / "again.onnx", verify=False)
    assert again.path.read_bytes() == file.path.read_bytes()


@pytest.mark.parametrize("name", ["nested", "tracked"])
def test_an_unrolled_file_has_no_loop_and_answers_as_the_captured_graph(make: Make, tmp_path: Path, name: str) -> None:
    program = make(name)
    if name == "nested":
        program = program.but(output_names=program.output_names[:4])
    file = to_onnx(program, tmp_path / "m.onnx", form="unrolled")
    assert file.verification.max_error < 1e-5
    assert "Loop" not in operators(file.path)
    assert file.form == "unrolled"


def test_tracking_stays_a_function_called_once_in_the_body(exported: Make) -> None:
    _, file = exported("tracked")
    counted = operators(file.path)
    assert counted["track"] == counted["reset"] == counted["fold"] == counted["folded_linear"] == 1
    written = {f.name: f for f in onnx.load(file.path).functions}
    assert "If" in [node.op_type for node in written["track"].node]


@pytest.mark.parametrize(("fidelity", "bias"), [(0.9, True), (0.99, False), (0.999, True), (1.0, False)])
def test_tracked_files_decide_as_the_program_does(make: Make, tmp_path: Path, fidelity: float, bias: bool) -> None:
    program = make("tracked", fidelity=fidelity, bias=bias)
    model = OnnxModel(to_onnx(program, tmp_path / "m.onnx", verify=False).path)
    answers = model(*program.example_inputs)
    y, records = program.run(*program.example_inputs)
    torch.testing.assert_close(answers["y"], y, atol=2e-3, rtol=0)
    stats = torch.stack(records)
    assert torch.equal(model.stats["loop_0:up"][:, 2:], stats[:, 2:])
    torch.testing.assert_close(model.stats["loop_0:up"][:, 0], stats[:, 0], atol=1e-5, rtol=0)


def test_the_fidelity_of_a_call_overrides_that_of_the_file(exported: Make) -> None:
    program, file = exported("tracked")
    model = OnnxModel(file.path)
    exact = model(*program.example_inputs, fidelity=1.0)["y"]
    assert model.stats["loop_0:up"][:, 4].all()
    assert not torch.equal(exact, model(*program.example_inputs)["y"])
    torch.testing.assert_close(exact, program.run(*program.example_inputs, fidelity=1.0)[0], atol=1e-5, rtol=1e-5)


def test_a_vector_operand_is_right_at_every_optimisation_level(make: Make, tmp_path: Path) -> None:
    """ONNX Runtime fuses Transpose and MatMul with a one-dimensional operand wrongly."""
    program = make("one_loop")
    graph = program.graph_module.graph
    (out,) = graph.find_nodes(op="output")
    with graph.inserting_before(out):
        row = graph.call_function(torch.select, (out.args[0][1], 0, 0))
        vector = graph.call_function(torch.select, (out.args[0][2], 0, 0))
        turned = graph.call_function(torch.transpose, (row, 0, 1))
        product = graph.call_function(torch.matmul, (turned, vector))
    out.args = ((*out.args[0], product),)
    program.graph_module.recompile()
    for node in (row, vector, turned, product):
        values = fx.map_arg(node.args, lambda n: n.meta["val"])
        with out.args[0][1].meta["val"].fake_mode:
            node.meta["val"] = node.target(*values)
    file = to_onnx(program.but(output_names=(*program.output_names, "product")), tmp_path / "m.onnx")
    assert file.verification.max_error < 1e-5


@pytest.mark.parametrize("change", [{"form": "folded"}, {"opset": 17}, {"opset": 99}, {"opset": "20"}])
def test_wrong_options_are_refused(make: Make, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        to_onnx(make("one_loop"), tmp_path / "m.onnx", **change)


def test_an_opset_that_onnx_runtime_lacks_is_named_with_the_way_out(make: Make, tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()  # always ahead of ONNX Runtime's
    with pytest.raises(VerificationError, match=rf"has opset {newest}[^$]*export with opset=\d\d; or pass"):
        to_onnx(make("one_loop"), tmp_path / "m.onnx", opset=newest)
    assert list(tmp_path.iterdir()) == []


def relabel(program: Any, old: Any, new: Any) -> None:
    """Replace the target of a node in the body of the first loop."""
    body = program.graph_module.loop_0.body
    node = next(n for n in body.graph.nodes if n.target is old)
    node.target = new


def test_a_training_graph_is_refused(make: Make, tmp_path: Path) -> None:
    program = make("tracked")
    relabel(program, torch.ops.laser.folded_linear, torch.ops.laser.linear.default)
    with pytest.raises(ExportError, match=r"\.eval\(\)"):
        to_onnx(program, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


@torch.library.custom_op("laser_test::unknown", mutates_args=())
def unknown(x: Tensor) -> Tensor:
    return x.sinh()


@unknown.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_without_onnx_is_named(make: Make, tmp_path: Path) -> None:
    program = make("one_loop")
    relabel(program, F.silu, torch.ops.laser_test.unknown.default)
    with pytest.raises(ExportError, match="unknown"):
        to_onnx(program, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_enters_a_loop_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    program = make("one_loop")
    graph = program.graph_module.graph
    call = next(node for node in graph.nodes if node.op == "call_module")
    with graph.inserting_before(call):
        size = graph.call_function(torch.ops.aten.sym_size.int, (call.args[0], 0), name="rows")
    size.meta["val"] = call.args[0].meta["val"].shape[0]
    call.args = (*call.args[:-1], size)
    with pytest.raises(ExportError, match=r"sym_size|rows"):
        to_onnx(program, tmp_path / "m.onnx")


def test_a_file_that_answers_otherwise_is_never_written(make: Make, tmp_path: Path) -> None:
    program = make("one_loop")
    wrong = dataclasses.replace(program, weights={**program.weights, "w": program.weights["w"] * 1.01})

    class Changing:
        """The weights of the file are not those of the program that it is compared with."""

        def __init__(self) -> None:
            self.reads = 0

        def __getattr__(self, name: str) -> Any:
            if name != "weights":
                return getattr(program, name)
            self.reads += 1
            return wrong.weights if self.reads > 1 else program.weights

    with pytest.raises(VerificationError, match="differs by") as caught:
        to_onnx(Changing(), tmp_path / "m.onnx")
    assert "4 rows, ORT_ENABLE_BASIC" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/m.onnx", "."])
def test_paths_are_refused_before_the_work(make: Callable[..., Any], tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputPathError) as caught:
        to_onnx(None, tmp_path / name)  # type: ignore[arg-type]
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
