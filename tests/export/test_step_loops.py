"""The form `step` of a program of several outermost loops: one is repeated by the host, the others run around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import laser_fx
from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.errors import ExportError, InputError, OptionError
from laser_fx.export import OnnxModel, to_onnx
from tests.export.conftest import random, two_loops
from tests.export.files import operators
from tests.export.registry_cache import parse_functions_once
from tests.small import Contractive, low_rank, model, step

Basis = Literal["frozen", "per_step"]
parse_functions_once()


def test_it_answers_as_the_rolled_file(tmp_path: Path) -> None:
    program = two_loops()
    to_onnx(program, tmp_path / "step.onnx", form="step")
    to_onnx(program, tmp_path / "rolled.onnx", verify=False)
    ours, theirs = OnnxModel(tmp_path / "step.onnx"), OnnxModel(tmp_path / "rolled.onnx")
    for depth in (1, 4, 7):
        expected = theirs(*program.example_inputs, depth={"loop_1": depth})
        torch.testing.assert_close(ours(*program.example_inputs, depth=depth), expected)
        assert ours.steps_taken == depth
    with pytest.raises(InputError, match="'loop_0' is not an input"):
        ours(*program.example_inputs, depth={"loop_0": 2})
    for path in tmp_path.glob("step*.onnx"):
        assert "Loop" not in operators(path)


def test_the_loop_that_runs_most_is_repeated(tmp_path: Path) -> None:
    def first(self: Any, x: Tensor) -> Tensor:
        for _ in range(5):
            x = step(self, x, x)
        for _ in range(3):
            x = self.b(x).sin()
        return x

    x = random(3, 8)
    compiled = laser_fx.compile(model(first), (x,), options=laser_fx.Options.exact())
    run = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form="step", verify=False).path)
    assert [depth.loop for depth in run.metadata.depths] == ["loop_0"]
    with torch.no_grad():
        torch.testing.assert_close(next(iter(run(x).values())), compiled(x))
    for made in run.stream(x):
        assert made.number <= 5


def test_values_by_step_that_are_made_on_both_sides_are_handed_on(tmp_path: Path) -> None:
    def second(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(6):
            z = step(self, z, x)
        for row in (x.sin(), z.cos(), x.tanh()):
            z = torch.tanh(self.b(z) * row)
        return z

    x = random(3, 8)
    compiled = laser_fx.compile(model(second), (x,), options=laser_fx.Options.exact())
    assert compiled.loops.trips() == ((0, 6), (0, 3))
    run = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form="step", verify=False).path)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(run(x).values())), compiled(x))


def narrow(schedule: tuple[Any, ...], basis: Basis, **options: Any) -> tuple[Any, Any, Tensor]:
    """A model, and one through bases of no meaning in ranks by this schedule."""
    exact, x = Contractive().eval(), low_rank(6, 32)
    compiled = laser_fx.compile(exact, (x,), options=laser_fx.Options.exact())
    bases: dict[str, SiteBasis] = {}
    for site in compiled.program.sites:
        (trips,) = compiled.program.nest.trips_around(site.loop)
        drawn = [torch.linalg.qr(random(site.outputs, site.outputs // 2, seed=number))[0] for number in range(trips)]
        bases[site.key] = SiteBasis("output", torch.stack(drawn) if basis == "per_step" else drawn[0])
    calibration = Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ())
    chosen = laser_fx.Options(basis=basis, rank_schedule=schedule, **options)
    return exact, laser_fx.compile(exact, (x,), options=chosen, calibration=calibration), x


def test_a_schedule_of_ranks_whose_last_steps_are_exact(tmp_path: Path) -> None:
    exact, compiled, x = narrow((1.0, "exact"), "per_step")
    run = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form="step", verify=False).path)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(run(x).values())), compiled(x))
        assert run.replays == 0
        torch.testing.assert_close(next(iter(run(x, fidelity=1.0).values())), exact(x))
        assert run.replays == run.steps_taken == 5


def test_sites_that_the_host_could_not_look_after_are_refused(tmp_path: Path) -> None:
    _, compiled, x = narrow((0.5, 1.0), "frozen")
    with pytest.raises(ExportError, match="several outermost loops are measured"):
        compiled.to_onnx(tmp_path / "m.onnx", form="step")
    assert not list(tmp_path.iterdir())
    _, compiled, x = narrow((0.5, 1.0), "frozen", measure=False)
    run = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", form="step", verify=False).path)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(run(x).values())), compiled(x))


def test_halting_of_several_loops_or_of_single_steps_is_refused(tmp_path: Path) -> None:
    program = two_loops()
    with pytest.raises(ExportError, match="2 outermost loops"):
        to_onnx(program, tmp_path / "m.onnx", form="step", halt="y")
    with pytest.raises(OptionError, match="at every step"):
        to_onnx(program, tmp_path / "m.onnx", form="step", halt="y", state={"x": "y"})
    assert not list(tmp_path.iterdir())
