"""What a fixed basis keeps at a step: exact for activations, an estimate for outputs, the same in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import subspace
from laser_fx.calibration import Calibration, Objective, SiteBasis
from laser_fx.errors import InputError, NonFiniteError
from laser_fx.export import OnnxModel
from laser_fx.loops import Step
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.measure_frozen import PROBES, lost_probes
from tests.small import Contractive, exact, low_rank, same, small_trm, trm_batch

RANK = 12


def random_basis(rows: int, rank: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(subspace.sketch(rows, rank, seed))[0]


def calibration(model: nn.Module, *inputs: Any, objective: Objective, rank: int | None = RANK) -> Calibration:
    program = exact(model, *inputs).program
    sites = [p.site for p in find_sites(program.rolled, program.capture.states)]
    sizes = {s.key: s.features if objective == "activation" else s.outputs for s in sites}
    bases = {key: SiteBasis(objective, random_basis(size, min(rank or size, size))) for key, size in sizes.items()}
    return Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ())


def frozen(model: nn.Module, *inputs: Any, found: Calibration, **options: Any) -> Any:
    chosen = laser_fx.Options(basis="frozen", **options)
    return laser_fx.compile(model.eval(), inputs, options=chosen, calibration=found)


def steps(compiled: Any) -> dict[str, tuple[Step, ...]]:
    found: dict[str, tuple[Step, ...]] = compiled.program.steps(compiled._records)
    return found


def test_an_activation_s_fidelity_is_the_measured_one() -> None:
    model, x = Contractive(), low_rank(24, 32)
    found = calibration(model, x, objective="activation")
    compiled = frozen(model, x, found=found)
    with torch.no_grad():
        compiled(x)
    up, down = steps(compiled).values()
    assert [len(up), len(down)] == [6, 6]
    # z is zero at first, so the first activation is x itself.
    assert up[0].fidelity == pytest.approx(float(subspace.fidelity(x, found.bases["loop_0:up"].basis)), rel=1e-5)
    assert 0.0 < down[0].fidelity < 1.0
    assert {(s.rank, s.tracked, s.reset, s.exact) for s in (*up, *down)} == {(RANK, False, False, False)}


def test_an_output_s_fidelity_is_estimated() -> None:
    model, x = Contractive(), torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    found = calibration(model, x, objective="output", rank=24)
    compiled = frozen(model, x, found=found)
    with torch.no_grad():
        compiled(x)
        y, basis = x @ model.up.weight.mT, found.bases["loop_0:up"].basis
    lost = float((y - y @ basis @ basis.mT).square().sum() / y.square().sum())
    measured = 1.0 - steps(compiled)["loop_0:up"][0].fidelity
    # What is lost has some thirty directions here; eight probes are within a factor of two of it.
    assert lost / 2 < measured < 2 * lost


def test_the_estimate_of_what_is_lost_is_right_on_average() -> None:
    y, basis = subspace.sketch(50, 20, "y"), random_basis(20, 6)
    lost = float((y - y @ basis @ basis.mT).square().sum())
    estimates = torch.stack([(y @ lost_probes(basis, f"{seed}").mT).square().sum() for seed in range(400)])
    # Each one is spread by less than √(2/8); the mean of 400 by a twentieth of that.
    assert float(estimates.mean()) == pytest.approx(lost, rel=0.08)
    assert float(estimates.std() / lost) < (2 / PROBES) ** 0.5


@pytest.mark.parametrize("objective", ["activation", "output"])
def test_a_full_basis_keeps_all(objective: Objective) -> None:
    model, x = Contractive(), torch.randn(7, 32)
    compiled = frozen(model, x, found=calibration(model, x, objective=objective, rank=None))
    with torch.no_grad():
        compiled(x)
    assert all(step.fidelity == pytest.approx(1.0, abs=1e-5) for found in steps(compiled).values() for step in found)


@pytest.mark.parametrize("objective", ["activation", "output"])
def test_nothing_is_kept_wholly_and_nan_is_told(objective: Objective) -> None:
    model, x = Contractive(), torch.randn(7, 32)
    nn.init.zeros_(model.down.bias)
    nn.init.zeros_(model.up.bias)
    compiled = frozen(model, x, found=calibration(model, x, objective=objective))
    with torch.no_grad():
        compiled(torch.zeros_like(x))
        assert {step.fidelity for found in steps(compiled).values() for step in found} == {1.0}
        with pytest.raises(NonFiniteError, match="NaN"):
            compiled(torch.full_like(x, torch.nan))


@pytest.mark.parametrize("objective", ["activation", "output"])
def test_measuring_changes_no_answer_and_can_be_left_out(objective: Objective) -> None:
    trm, batch = small_trm(), trm_batch(3)
    inputs = trm.initial_carry(batch), batch
    found = calibration(trm, *inputs, objective=objective, rank=5)
    measured, bare = (frozen(trm, *inputs, found=found, measure=measure) for measure in (True, False))
    with torch.no_grad():
        assert same(measured(*inputs), bare(*inputs))
    assert bare._records == ()
    counts = {key: len(entries) for key, entries in steps(measured).items()}
    assert counts == {site.key: site.steps for site in measured.sites}


@pytest.mark.parametrize("objective", ["activation", "output"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_any_precision_of_the_weights_is_measured(objective: Objective, dtype: torch.dtype) -> None:
    model, x = Contractive(), low_rank(24, 32)
    found = calibration(model, x, objective=objective)
    wide = frozen(model, x, found=found)
    with torch.no_grad():
        wide(x)
        expected = [step.fidelity for entries in steps(wide).values() for step in entries]
        other = frozen(Contractive().to(dtype), x.to(dtype), found=found)
        other._model.load_state_dict(model.state_dict())
        assert other(x.to(dtype)).dtype == dtype
    measured = [step.fidelity for entries in steps(other).values() for step in entries]
    assert measured == pytest.approx(expected, abs=2e-2 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("objective", ["activation", "output"])
def test_a_rolled_file_reports_what_the_program_does(objective: Objective, tmp_path: Path) -> None:
    trm, batch = small_trm(), trm_batch(3)
    inputs = trm.initial_carry(batch), batch
    compiled = frozen(trm, *inputs, found=calibration(trm, *inputs, objective=objective, rank=5))
    with torch.no_grad():
        compiled(*inputs)
    file = compiled.to_onnx(tmp_path / "frozen.onnx")
    with OnnxModel(file.path) as model:
        assert "fidelity" not in model.input_names
        model(*inputs)
        found = model.stats
    for key, entries in steps(compiled).items():
        rows = torch.as_tensor(found[key]).reshape(-1, 5)
        expected = torch.tensor([[s.fidelity, s.rank, s.tracked, s.reset, s.exact] for s in entries])
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-4)


def test_the_report_has_the_steps_of_frozen_sites() -> None:
    model, x = Contractive(), low_rank(24, 32)
    compiled = frozen(model, x, found=calibration(model, x, objective="activation"), memory=None)
    with torch.no_grad():
        compiled(x)
    report = compiled.report(training=False)
    assert [len(site.steps) for site in report.sites] == [6, 6]
    assert all(site.lowest_fidelity == min(s.fidelity for s in site.steps) for site in report.sites)


def test_a_basis_that_is_not_orthonormal_is_refused() -> None:
    model, x = Contractive(), low_rank(24, 32)
    bases = {"loop_0:up": SiteBasis("activation", 1.01 * random_basis(32, 4))}
    with pytest.raises(InputError, match="not orthonormal"):
        frozen(model, x, found=Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ()))
