"""Frozen bases, found on data: fewer operations at the answers that were asked for."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.calibration import Calibration, SiteBasis, share_of
from laser_fx.errors import InputError, NonFiniteError, OptionError
from laser_fx.export import OnnxModel
from laser_fx.intervals import wilson


class Looped(nn.Module):
    """A loop whose activations lie near a subspace, as long as its inputs do."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(16, 32, bias), nn.Linear(32, 16, bias)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = x + 0.3 * self.down(torch.tanh(self.up(x)))
        logits: Tensor = self.head(x)
        return logits


def data(count: int = 6, rows: int = 64) -> list[Tensor]:
    torch.manual_seed(1)
    directions = torch.randn(3, 16)
    return [torch.randn(rows, 3) @ directions for _ in range(count)]


def frozen(model: nn.Module, found: Calibration, **options: Any) -> Any:
    return laser_fx.compile(
        model.eval(), (data()[0],), options=laser_fx.Options(basis="frozen", **options), calibration=found
    )


def calibrated(model: nn.Module, **options: Any) -> Calibration:
    return laser_fx.calibrate(model, data(), **{"tolerance": 0.05, "sites": "all", **options})


def test_fewer_operations_keep_the_answers() -> None:
    model, batches = Looped(), data()
    found = laser_fx.calibrate(model, batches, tolerance=0.05, sites="all")
    assert found.flops_share < 0.7
    assert found.exact == 1.0
    assert found.held_out == 2 * 64
    assert found.interval[0] <= found.kept <= found.interval[1]
    compiled = frozen(model, found)
    with torch.no_grad():
        same = torch.cat([compiled(x).argmax(-1) == model(x).argmax(-1) for x in batches[4:]])
    assert float(same.double().mean()) == pytest.approx(found.kept)
    assert all(t.kept <= 1.0 and 0.0 < t.flops_share <= 1.0 for t in found.trials)
    assert {t.objective for t in found.trials} >= {"activation", "output", "answer", "mixed"}
    assert {t.examples for t in found.trials} == {"searched", "selected"}
    assert len(found.carry) == 4
    assert all(0.5 < step.cosine <= 1.0 and 0.0 < step.error < 1.0 for step in found.carry)


def test_what_is_too_small_to_become_faster_stays_exact(caplog: pytest.LogCaptureFixture) -> None:
    found = laser_fx.calibrate(Looped(), data(), tolerance=0.05, objectives=("activation",))
    assert (found.bases, found.flops_share, found.kept) == ({}, 1.0, 1.0)
    assert "no basis makes any of 2 sites faster" in caplog.text


def test_a_full_basis_of_either_objective_is_the_linear() -> None:
    model = Looped()
    x = data()[0]
    bases = {
        "loop_0:up": SiteBasis("activation", torch.linalg.qr(torch.randn(16, 16))[0]),
        "loop_0:down": SiteBasis("output", torch.linalg.qr(torch.randn(16, 16))[0]),
    }
    compiled = frozen(model, Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ()))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert [site.rank for site in compiled.sites] == [16, 16]


def test_factors_follow_the_weights() -> None:
    model, x = Looped(), data()[0]
    found = calibrated(model)
    compiled = frozen(model, found)
    with torch.no_grad():
        before = compiled(x)
        model.up.weight.mul_(0.5)
        after = compiled(x)
        anew = frozen(copy.deepcopy(model), found)(x)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, anew, rtol=1e-5, atol=1e-6)


def test_accuracy_counts_the_right_answers() -> None:
    model, batches = Looped(), data()
    with torch.no_grad():
        answers = [model(x).argmax(-1) for x in batches]
    wrong = [(a + 1) % 5 for a in answers]
    assert laser_fx.calibrate(model, batches, target="accuracy", answers=answers, tolerance=0.05).exact == 1.0
    assert laser_fx.calibrate(model, batches, target="accuracy", answers=wrong, tolerance=0.05).exact == 0.0


def test_schedules_are_searched_for_and_never_take_more_operations() -> None:
    model, batches = Looped(), data()
    without = laser_fx.calibrate(model, batches, tolerance=0.05, sites="all")
    found = laser_fx.calibrate(model, batches, tolerance=0.05, sites="all", rank_schedules="search")
    assert found.flops_share <= without.flops_share
    tried = {trial.objective for trial in found.trials}
    assert any("(1.0, 'exact')" in setting for setting in tried)
    assert any("(0.5, 1.0)" in setting for setting in tried)


def test_training_and_gradients_stay_exact() -> None:
    model, x = Looped(), data()[0]
    compiled = frozen(model, calibrated(model), memory=None)
    assert torch.equal(compiled(x), model(x))
    assert torch.equal(compiled.train()(x), model(x))


def test_a_calibration_is_written_and_read(tmp_path: Path) -> None:
    found = calibrated(Looped())
    found.save(tmp_path / "bases.safetensors")
    again = Calibration.load(tmp_path / "bases.safetensors")
    assert again.bases.keys() == found.bases.keys()
    assert all(torch.equal(again.bases[k].basis, found.bases[k].basis) for k in found.bases)
    assert (again.trials, again.kept, again.interval) == (found.trials, found.kept, found.interval)
    assert again.carry == found.carry
    (tmp_path / "other").write_bytes(b"no safetensors")
    for path in (tmp_path / "other", tmp_path / "missing"):
        with pytest.raises(InputError, match="no calibration can be read"):
            Calibration.load(path)


def test_a_frozen_model_is_copied_pickled_and_exported(tmp_path: Path) -> None:
    model, x = Looped(), data()[0]
    compiled = frozen(model, calibrated(model))
    with torch.no_grad():
        expected = compiled(x)
        assert torch.equal(copy.deepcopy(compiled)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(compiled))(x), expected)
        exact = compiled.with_options(laser_fx.Options.exact())
        assert torch.equal(exact(x), model(x))
    file = compiled.to_onnx(tmp_path / "frozen.onnx")
    (answer,) = OnnxModel(file.path)(x).values()
    torch.testing.assert_close(torch.as_tensor(answer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": [data()[0]]}, InputError, "1 batches"),
        ({"target": "speed"}, OptionError, "target is 'speed'"),
        ({"data": [data()[0]] * 2}, InputError, "2 batches"),
        ({"tolerance": 1.0}, OptionError, "tolerance is 1.0"),
        ({"tolerance": 0.0}, OptionError, "no number of examples"),
        ({"tolerance": 0.001}, InputError, "128 examples select"),
        ({"target": "accuracy", "answers": [torch.ones(64)] * 6}, InputError, "one class"),
        ({"target": "accuracy"}, InputError, "no answers"),
        ({"answers": [torch.zeros(32)]}, InputError, "1 answers"),
        ({"model": nn.Linear(16, 4)}, InputError, "no site"),
        ({"data": [*data(5), torch.full((64, 16), torch.nan)]}, NonFiniteError, "holds NaN\n  where: .*batch 5"),
        ({"data": [*data(5), torch.full((64, 16), torch.inf)]}, NonFiniteError, "logits .* NaN\n  where: .*batch 5"),
        ({"data": [*data(5), torch.randn(64, 8)]}, InputError, r"its tensors are float32\[…, 8\]"),
        ({"data": [*data(5), data()[5].double()]}, InputError, "its tensors are float64"),
        ({"tolerance": "5 %"}, OptionError, "tolerance is '5 %'"),
        ({"target": "accuracy", "answers": [torch.ones(64, 1)] * 6}, InputError, r"answers are \(64, 1\)"),
        ({"basis": "tracked"}, OptionError, "basis is 'tracked'"),
        ({"sites": "some"}, OptionError, "sites is 'some'"),
        ({"objectives": ("accuracy",)}, OptionError, "objectives is"),
        ({"objectives": ()}, OptionError, "objectives is"),
        ({"rank_schedules": [(2.0,)]}, OptionError, "2.0 is no share"),
        ({"rank_schedules": "searched"}, OptionError, "rank_schedules is 'searched'"),
        ({"exact_sites": ["up"]}, OptionError, "exact_sites is 'up'\n.*\n  fix: choose among loop_0:up, loop_0:down"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"model": Looped(), "data": data(), "tolerance": 0.05, **change}
    with pytest.raises(error, match=message):
        laser_fx.calibrate(given.pop("model"), given.pop("data"), **given)


@pytest.mark.parametrize("basis", ["frozen", "per_step"])
def test_linears_that_give_or_take_nothing_are_no_obstacle(basis: Any) -> None:
    class Fresh(Looped):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.zeros_like(x)
            for _ in range(3):
                z = z + self.down(torch.relu(self.up(z) + x.mean() - 1e3)) + 0.3 * torch.tanh(x)
            return self.head(z)

    fresh = Fresh()
    nn.init.zeros_(fresh.up.weight)
    found = calibrated(fresh, basis=basis, objectives=("output", "answer"))
    assert "loop_0:down" not in found.bases


def test_batches_of_a_size_that_the_model_does_not_take_are_refused() -> None:
    class Fixed(Looped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(64, 16))

    assert calibrated(Fixed()).held_out == 128
    with pytest.raises(InputError, match=r"takes 64 in front and no other size\n  where: .*batch 5"):
        laser_fx.calibrate(Fixed(), [*data(5), data(1, rows=32)[0]], tolerance=0.05)


def test_frozen_without_a_calibration_or_with_a_stranger_s_is_refused() -> None:
    with pytest.raises(OptionError, match="no calibration"):
        laser_fx.compile(Looped(), options=laser_fx.Options(basis="frozen"))
    missing = {"loop_0:left": SiteBasis("output", torch.eye(16))}
    wrong = {"loop_0:up": SiteBasis("output", torch.eye(16))}
    for bases, message in ((missing, "no site for"), (wrong, "16 rows")):
        with pytest.raises(InputError, match=message):
            frozen(Looped(), Calibration(bases, "agreement", 1.0, 1.0, 1.0, (0.0, 1.0), 1, ()))


class _Scaled(nn.Module):
    """A linear whose matrix is made of its parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.scale = nn.Parameter(torch.randn(16, 16) / 4), nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = torch.tanh(nn.functional.linear(z, self.matrix * self.scale) + x)
        return z


def test_a_linear_whose_matrix_is_no_parameter_gets_no_basis() -> None:
    with pytest.raises(InputError, match="no linear whose matrix is a parameter"):
        laser_fx.calibrate(_Scaled(), data(), tolerance=0.05)
    stranger = Calibration({"loop_0:matrix": SiteBasis("output", torch.eye(16))}, "agreement", 1, 1, 1, (0, 1), 1, ())
    with pytest.raises(InputError, match="no site for"):
        frozen(_Scaled(), stranger)


def test_shares_and_intervals() -> None:
    assert share_of(torch.tensor([1.0, 1.0]), 1.0) == 2
    assert share_of(torch.tensor([0.0, 0.0]), 0.5) == 2
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    assert wilson(0.0, 10)[0] == pytest.approx(0.0)
