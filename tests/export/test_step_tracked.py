"""The form `step` of a tracked program: the step holds its bases, another one refreshes them as a rolled file does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import ops
from laser_fx.errors import ExportError, OptionError
from laser_fx.export import OnnxModel, to_onnx, verify_exported
from laser_fx.export.least_fidelity import least_fidelity
from laser_fx.export.writer import Writer
from tests.export.conftest import MAKERS
from tests.export.files import operators
from tests.export.registry_cache import parse_functions_once
from tests.small import low_rank

parse_functions_once()
OBJECTIVES = ("activation", "output")
DEPTH = 9


class Nested(nn.Module):
    """Sites in a loop inside of a loop, one of them without a bias, and one around it."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = nn.Linear(24, 32), nn.Linear(32, 24, bias=False), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for _ in range(4):
            z = h
            for _ in range(2):
                z = 0.5 * z + 0.5 * self.down(torch.tanh(self.up(z + x)))
            h = 0.5 * h + 0.5 * torch.tanh(self.out(z))
        return h


Written = tuple[Any, OnnxModel, OnnxModel]
Files = Callable[[str], Written]


@pytest.fixture(scope="module", params=OBJECTIVES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A tracked model compiled, its file of the form step, and its rolled one."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model, x = Nested().eval(), low_rank(24, 24)
    options = laser_fx.Options(sites="all", objective=request.param, fidelity=0.9, rank=8)
    compiled = laser_fx.compile(model, (x,), options=options)
    compiled.to_onnx(folder / "step.onnx", form="step", verify=False)
    compiled.to_onnx(folder / "rolled.onnx", verify=False)
    return compiled, OnnxModel(folder / "step.onnx"), OnnxModel(folder / "rolled.onnx")


def answer(model: Any, *inputs: Any, **options: Any) -> Tensor:
    (value,) = model(*inputs, **options).values()
    return torch.as_tensor(value)


@pytest.mark.parametrize("fidelity", [None, 0.5, 0.99, 1.0])
def test_it_decides_and_answers_as_the_rolled_file(written: Written, fidelity: float | None) -> None:
    _, step, rolled = written
    x = low_rank(24, 24)
    for depth in (1, DEPTH):
        torch.testing.assert_close(
            answer(step, x, depth=depth, fidelity=fidelity), answer(rolled, x, depth=depth, fidelity=fidelity)
        )
        assert step.stats.keys() == rolled.stats.keys()
        for key, stats in step.stats.items():
            torch.testing.assert_close(stats, rolled.stats[key])
    assert step.steps_taken == DEPTH


def test_it_answers_as_pytorch(written: Written) -> None:
    compiled, step, _ = written
    x = low_rank(24, 24)
    with torch.no_grad():
        tracked, exact = compiled(x), compiled._model(x)
    # What a basis holds besides the directions of its data is left to chance.
    assert (answer(step, x) - tracked).abs().max() < 0.5 * (tracked - exact).abs().max()
    torch.testing.assert_close(answer(step, x, fidelity=1.0), exact, atol=1e-4, rtol=1e-4)


def test_only_a_step_that_falls_below_runs_again(written: Written) -> None:
    _, step, _ = written
    x = low_rank(24, 24)
    step(x, depth=DEPTH)
    refreshed = sum(stats[..., ops.TRACKED].reshape(DEPTH, -1) for stats in step.stats.values()).sum(-1) > 0
    assert step.replays == int(refreshed[1:].sum())  # the first step makes the bases: it is not tried
    assert 0 < step.replays < DEPTH - 1
    step(x, depth=DEPTH, fidelity=1e-6)
    assert step.replays == 0
    step(x, depth=DEPTH, fidelity=1.0)
    assert step.replays == DEPTH - 1


@pytest.mark.parametrize("refresh", [1, 3])
def test_bases_are_refreshed_on_a_schedule(written: Written, refresh: int) -> None:
    _, step, rolled = written
    x = low_rank(24, 24)
    planned = OnnxModel(step.path, refresh=refresh)
    found, expected = answer(planned, x, depth=DEPTH), answer(rolled, x, depth=DEPTH, fidelity=1.0)
    for stats in planned.stats.values():
        assert bool(((stats[..., ops.FIDELITY] >= 0.9) | (stats[..., ops.EXACT] == 1)).all())
    every = sum(stats[..., ops.TRACKED].reshape(DEPTH, -1).amin(-1) for stats in planned.stats.values())
    assert bool((every[refresh::refresh] == len(planned.stats)).all())
    unplanned = answer(step, x, depth=DEPTH)
    assert (found - expected).abs().max() < 3 * (unplanned - expected).abs().max() + 1e-4
    assert planned.replays <= (step(x, depth=DEPTH), step.replays)[1]


def test_the_step_has_no_branch_and_the_weight_of_no_site(written: Written) -> None:
    _, step, _ = written
    model = onnx.load(step.path, load_external_data=False)
    inside = {node.op_type for function in model.functions for node in function.node}
    assert not {"Loop", "If", "Scan"} & (operators(step.path).keys() | inside)
    assert not {tensor.name for tensor in model.graph.initializer} & {"up.weight", "down.weight", "out.weight"}
    bases = step.metadata.step.bases
    returned = {value.name for value in model.graph.output}
    assert bases is not None
    assert not returned & {state.following for state in bases.held}
    assert {state.name for state in bases.held} <= {value.name for value in model.graph.input}


def test_the_file_is_verified_without_its_model(written: Written) -> None:
    assert verify_exported(written[1].path).checksum


def test_streams_and_arrays(written: Written) -> None:
    _, step, rolled = written
    x = low_rank(24, 24)
    for made in step.stream(x, depth=3, fidelity=0.8):
        torch.testing.assert_close(made.answers["output"], answer(rolled, x, depth=made.number, fidelity=0.8))
    assert isinstance(next(iter(step(x.numpy()).values())), np.ndarray)


def test_a_schedule_that_is_none_is_refused(written: Written) -> None:
    for refresh in (0, -1, 1.0, True):
        with pytest.raises(OptionError, match="refresh"):
            OnnxModel(written[1].path, refresh=refresh)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no bases"):
        OnnxModel(written[2].path, refresh=2)


def test_a_first_basis_that_is_a_weight(tmp_path: Path) -> None:
    program = MAKERS["tracked"]()
    to_onnx(program, tmp_path / "step.onnx", form="step")
    to_onnx(program, tmp_path / "rolled.onnx", verify=False)
    step, rolled = OnnxModel(tmp_path / "step.onnx"), OnnxModel(tmp_path / "rolled.onnx")
    torch.testing.assert_close(step(*program.example_inputs), rolled(*program.example_inputs))
    torch.testing.assert_close(step.stats, rolled.stats)


def test_examples_do_not_leave_a_batch_that_shares_its_bases(tmp_path: Path) -> None:
    program = MAKERS["tracked"]()
    with pytest.raises(ExportError, match="tracked over the batch"):
        to_onnx(program, tmp_path / "m.onnx", form="step", halt="y", halt_per="example")
    with pytest.raises(ExportError, match="begin anew"):
        to_onnx(program, tmp_path / "m.onnx", form="step", state={"x": "y"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_fidelity_that_is_no_number_is_the_least(place: int) -> None:
    graph = ir.Graph(
        [ir.val(name, ir.DataType.FLOAT, [3, 5]) for name in "ab"], [], nodes=[], opset_imports={"": 20}, name="least"
    )
    least = least_fidelity(Writer(graph, graph, ""), graph.inputs)
    assert least is not None
    graph.outputs.append(least)
    content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for name in "ab":
        records = {key: np.full((3, 5), 0.75, np.float32) for key in "ab"}
        assert session.run(None, records)[0] == np.float32(0.75)
        records[name][place, ops.FIDELITY] = np.nan
        assert session.run(None, records)[0] == 0
