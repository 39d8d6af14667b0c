"""Structured loops in a file: one ``Loop`` each, whatever they collect or read by step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

import laser_fx
from laser_fx.export import OnnxFile, OnnxModel
from laser_fx.options import Options
from tests.export.files import operators
from tests.small import WIDTH, StructuredContractive, exact, low_rank, model, step
from tests.test_structured import CASES

NAMES = (
    "a_single_step",
    "per_step_values",
    "collected_outputs",
    "the_number_of_the_step",
    "one_inside_another",
    "inside_a_python_loop",
    "around_a_python_loop",
    "sizes_from_outside",
    "a_carry_that_stays",
    "nothing_but_outputs",
)
Exported = Callable[[str], tuple[Any, OnnxFile]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model by the name of its case and its file, verified, written once for all tests."""

    @functools.cache
    def written(name: str) -> tuple[Any, OnnxFile]:
        torch.manual_seed(0)
        module = model(CASES[name][0])
        path = tmp_path_factory.mktemp("onnx") / f"{name}.onnx"
        return module, exact(module, torch.randn(3, WIDTH)).to_onnx(path)

    return written


@pytest.mark.parametrize("name", NAMES)
def test_every_structured_loop_is_a_verified_loop(exported: Exported, name: str) -> None:
    _, file = exported(name)
    assert file.verification is not None
    assert file.verification.max_error < 1e-5
    assert operators(file.path)["Loop"] == len(CASES[name][1])


def test_a_file_is_as_small_however_often_it_runs(tmp_path: Path) -> None:
    def file(trips: int) -> Any:
        def forward(self: Any, x: Tensor) -> Tensor:
            return laser_fx.loop(lambda i, z: step(self, z, x * i), x, trips)

        return exact(model(forward), torch.randn(3, WIDTH)).to_onnx(tmp_path / f"{trips}.onnx", verify=False)

    few, many = file(10), file(300)
    assert few.nodes == many.nodes
    counted = operators(many.path)
    assert counted["Gather"] == 1
    assert counted["Concat"] == 0


def test_steps_that_are_alike_leave_the_depth_free(tmp_path: Path) -> None:
    compiled, x = exact(model(CASES["one_carry"][0]), torch.randn(3, WIDTH)), torch.randn(3, WIDTH)
    file = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx").path)

    def deeper(self: Any, x: Tensor) -> Tensor:
        return laser_fx.loop(lambda i, z: step(self, z, x), x, 7)

    other = model(deeper)
    other.load_state_dict(compiled.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(file(x, depth=7)["output"], other(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["per_step_values", "the_number_of_the_step", "collected_outputs"])
def test_what_belongs_to_each_step_fixes_the_depth(exported: Exported, name: str) -> None:
    _, file = exported(name)
    assert [value.name for value in onnx.load(file.path).graph.input] == ["x"]


def test_collected_outputs_come_with_the_steps_in_front(exported: Exported) -> None:
    (module, written), x = exported("collected_outputs"), torch.randn(3, WIDTH)
    file = OnnxModel(written.path)
    with torch.no_grad():
        _, outputs = module(x)
    assert file(x)["1.logits"].shape == (4, 3, WIDTH)
    torch.testing.assert_close(file(x)["1.logits"], outputs["logits"], rtol=1e-5, atol=1e-5)


def test_an_unrolled_file_keeps_the_loop_that_its_author_wrote(tmp_path: Path) -> None:
    compiled = exact(model(CASES["around_a_python_loop"][0]), torch.randn(3, WIDTH))
    file = compiled.to_onnx(tmp_path / "m.onnx", form="unrolled", verify=False)
    assert operators(file.path)["Loop"] == 1


def test_a_tracked_loop_with_collected_outputs_is_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = low_rank(2, 24, 32)
    compiled = laser_fx.compile(StructuredContractive().eval(), (x,), options=Options(fidelity=0.99, sites="all"))
    file = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx").path)
    answers = file(x)
    assert {stats.shape for stats in file.stats.values()} == {(6, 5)}
    with torch.no_grad():
        _, means = compiled(x)
    np.testing.assert_allclose(answers["1"], means, atol=5e-3)
