"""Compiled models that halt: the Tiny Recursive Model, a structured loop, fixed bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import zoo
from laser_fx.errors import ExportError
from laser_fx.export import OnnxModel, verify_exported, write_reference
from laser_fx.options import Options
from laser_fx.zoo.trm import Solve
from tests.small import Contractive, exact, low_rank, small_trm, trm_batch

STEPS = 4
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # float32 through eight blocks


def solve() -> Solve:
    """A solve whose halting logits differ by row and step, as those of trained models do."""
    torch.manual_seed(3)
    trm = small_trm()
    nn.init.normal_(trm.inner.q_head.weight)
    nn.init.zeros_(trm.inner.q_head.bias)
    return Solve(trm, STEPS, halting=True).eval()


@torch.no_grad()
def at_every_step(whole: Solve, inputs: Tensor) -> list[dict[str, Tensor]]:
    return [Solve(whole.trm, steps, halting=True)(inputs) for steps in range(1, STEPS + 1)]


@pytest.mark.parametrize("per", ["batch", "example"])
def test_a_solve_halts_by_its_head(per: Any, tmp_path: Path) -> None:
    model, inputs = solve(), trm_batch(6)["inputs"]
    answers = at_every_step(model, inputs)
    logits = torch.stack([answer["q_halt_logits"] for answer in answers])
    above = float(logits.flatten().sort().values[-logits.shape[1] - 2 :][:2].mean())
    file = exact(model, inputs).to_onnx(tmp_path / "m.onnx", halt="q_halt_logits", halt_per=per, halt_above=above)
    assert file.verification is not None
    assert file.verification.excused == ()
    done = logits > above if per == "example" else (logits > above).all(1, keepdim=True).expand_as(logits)
    taken = torch.where(done.any(0), done.int().argmax(0), STEPS - 1)
    run = OnnxModel(file.path)
    given = run(inputs)
    assert run.steps_taken.tolist() == (taken + 1 if per == "example" else taken[0] + 1).tolist()
    for name, value in given.items():
        expected = torch.stack([answers[int(step)][name][row] for row, step in enumerate(taken)])
        torch.testing.assert_close(value, expected, **CLOSE)
    if per == "example":
        assert len(set(taken.tolist())) > 1
        alone = run(inputs[:1])
        torch.testing.assert_close(alone["logits"], given["logits"][:1], **CLOSE)


class Collecting(nn.Module):
    """A structured loop whose head is computed in its body, and collected."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.whole = nn.Linear(8, 8), whole

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        def body(i: Tensor, z: Tensor) -> Any:
            z = torch.tanh(self.a(z) + x)
            return z, (z.mean(-1), z * 2)

        z, (logits, doubles) = laser_fx.loop(body, torch.zeros_like(x), 5, collect=True)
        return {"z": z, "done": logits[-1], "doubles": doubles if self.whole else doubles[-1]}


@pytest.mark.parametrize("per", ["batch", "example"])
def test_a_structured_loop_halts(per: Any, tmp_path: Path) -> None:
    compiled = exact(Collecting(), torch.randn(4, 8))
    file = compiled.to_onnx(tmp_path / "m.onnx", halt="done", halt_per=per)
    assert file.verification is not None
    assert file.verification.max_error < 1e-5
    model = OnnxModel(file.path)
    answers = model(torch.zeros(2, 8), halt=-9.0)
    assert model.steps_taken.tolist() == ([1, 1] if per == "example" else 1)
    torch.testing.assert_close(answers["doubles"], 2 * answers["z"])


@pytest.mark.parametrize("per", ["batch", "example"])
def test_all_steps_of_a_structured_loop_are_of_one_size(per: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"all 5 steps|more than the last step"):
        exact(Collecting(whole=True), torch.randn(4, 8)).to_onnx(tmp_path / "m.onnx", halt="done", halt_per=per)


class Settling(Contractive):
    """Says that it is done when it is large enough."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = super().forward(x)
        return {"z": z, "done": z.abs().mean((-1, -2)) - x.abs().mean((-1, -2))}


def test_fixed_bases_halt_by_rows_and_keep_no_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Settling().eval(), low_rank(6, 5, 32)
    found = laser_fx.calibrate(model, [(low_rank(6, 5, 32),) for _ in range(4)], tolerance=0.6, sites="all")
    compiled = laser_fx.compile(model, (x,), options=Options(basis="frozen"), calibration=found)
    file = compiled.to_onnx(tmp_path / "m.onnx", halt="done", halt_per="example")
    assert file.verification is not None
    metadata = OnnxModel(file.path).metadata
    assert metadata.records == ()
    assert metadata.halt is not None
    assert [value.name for value in onnx.load(file.path).graph.output] == ["z", "done", "steps_taken"]


@pytest.mark.parametrize("name", ["attention", pytest.param("sudoku", marks=pytest.mark.slow)])
def test_a_shipped_model_halts_early_and_answers_as_its_steps_do(name: str, tmp_path: Path) -> None:
    model, inputs = Solve(zoo.load(name), 4, halting=True).eval(), zoo.held_out(name, 24)["inputs"]
    compiled = laser_fx.compile(model, (inputs,), options=Options.exact())
    file = compiled.to_onnx(tmp_path / "m.onnx", halt="q_halt_logits", halt_per="example")
    run = OnnxModel(file.path)
    given = run(inputs)
    assert run.steps_taken.float().mean() < 2.5
    assert len(run.steps_taken.unique()) > 1
    for steps in run.steps_taken.unique():
        rows = run.steps_taken == steps
        with torch.no_grad():
            expected = Solve(model.trm, int(steps))(inputs[rows])
        assert torch.equal(given["logits"][rows].argmax(-1), expected.argmax(-1))
    if name == "sudoku":
        return  # on the made batch, which is no puzzle, it multiplies rounding tenfold at every step
    kept = write_reference(compiled.program, file.path, tmp_path / "r.safetensors")
    assert "the reference batch" in verify_exported(file.path, kept).runs
