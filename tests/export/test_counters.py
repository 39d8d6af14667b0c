"""A count of steps that no loop carries fixes the depth: another one would be answered with the traced count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import ExportError, InputError
from laser_fx.export import OnnxModel
from laser_fx.export.counters import counts_steps
from tests.small import WIDTH, exact, model


def counting(self: nn.Module, x: Tensor) -> dict[str, Tensor]:
    steps, z = torch.zeros(x.shape[0], dtype=torch.int64), torch.zeros_like(x)
    for _ in range(4):
        z, steps = torch.tanh(self.a(z) + x), steps + 1
    return {"z": z, "steps": steps, "done": z.sum(-1)}


def table(self: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    for _ in range(4):
        places = torch.arange(WIDTH).float().mul(0.5).add(1.0).sin()
        x = torch.tanh(self.a(x))
    return x, places


def from_an_input(self: nn.Module, x: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    for _ in range(4):
        x, steps = torch.tanh(self.a(x)), steps + 1
    return x, steps


def program(forward: object, *inputs: Tensor) -> laser_fx.CompiledModel:
    return exact(model(forward), *inputs)


def test_a_count_from_a_constant_fixes_the_depth(tmp_path: Path) -> None:
    compiled, x = program(counting, torch.randn(3, WIDTH)), torch.randn(2, WIDTH)
    file = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", verify=False).path)
    assert file.metadata.depths == ()
    assert file(x)["steps"].tolist() == [4, 4]
    with pytest.raises(InputError, match="depth"):
        file(x, depth=9)
    for form in ("rolled", "step"):
        with pytest.raises(ExportError, match="counts the steps"):
            compiled.to_onnx(tmp_path / "halting.onnx", form=form, halt="done")


def test_what_every_step_makes_alike_and_what_a_loop_carries_leaves_it_free() -> None:
    for compiled in (
        program(table, torch.randn(3, WIDTH)),
        program(from_an_input, torch.randn(3, WIDTH), torch.zeros(3, dtype=torch.int64)),
        program(lambda self, x: torch.tanh(self.a(torch.tanh(self.a(x)))), torch.randn(3, WIDTH)),
    ):
        assert counts_steps(compiled.program) is None
