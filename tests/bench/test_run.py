from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laser_fx.bench import ARMS, ArmResult, BenchResult, bench
from laser_fx.bench import arms as arms_module
from laser_fx.bench import run as run_module
from laser_fx.errors import InputError, OptionError
from laser_fx.options import Options
from tests.small import WIDTH, Contractive, looped

X = torch.ones(4, WIDTH)


def arm(result: BenchResult, name: str) -> ArmResult:
    return next(one for one in result.arms if one.name == name)


def test_every_arm_is_timed_and_answers_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model: model)  # inductor takes seconds
    result = bench(looped(), (X,), rounds=3)
    assert [one.name for one in result.arms] == list(ARMS)
    assert all(len(one.seconds) == 3 and min(one.seconds) > 0 for one in result.arms)
    assert arm(result, "exact").error == 0.0
    assert arm(result, "onnx").error is not None
    assert arm(result, "onnx").error <= 1e-5  # type: ignore[operator]  # rounding of float32 in four steps
    assert result.inputs == (f"float32[4,{WIDTH}]",)
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_training_keeps_is_that_of_the_options() -> None:
    model = Contractive()
    x = torch.randn(48, 32)
    options = Options(fidelity=0.9)
    result = bench(model, (x,), options=options, rounds=1, arms=("exact", "compiled"))
    eager, exact, compiled = (arm(result, name).saved_bytes for name in ("eager", "exact", "compiled"))
    assert eager == exact
    assert compiled is not None
    assert eager is not None
    assert compiled < eager
    silent = bench(model, (x,), rounds=1, arms=("exact",), training=False)
    assert [one.saved_bytes for one in silent.arms] == [None, None]


def test_arms_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def ready(name: str) -> Any:
        return lambda subject: lambda: order.append(name) or X

    made = {name: arms_module.Arm(name, ready(name)) for name in ("eager", "a", "b")}
    monkeypatch.setattr(run_module, "ARMS", made)
    monkeypatch.setattr(run_module, "_calls", lambda eager: 1)
    bench(nn.Identity(), (X,), rounds=3)
    assert order[3:] == ["eager", "a", "b", "a", "b", "eager", "b", "eager", "a"]


def test_an_arm_that_fails_says_why_and_the_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module) -> nn.Module:
        raise RuntimeError("no compiler here\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    result = bench(looped(), (X,), rounds=1, arms=("torch.compile",), training=False)
    assert arm(result, "torch.compile").failed == "RuntimeError: no compiler here"
    assert len(arm(result, "eager").seconds) == 1


def test_inductor_is_left_out_where_it_takes_long_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arms_module, "_MOST_UNROLLED", 5)
    monkeypatch.setattr(torch, "compile", lambda model: model)
    left_out = bench(looped(), (X,), rounds=1, training=False)
    assert "ask for it with --arm torch.compile" in str(arm(left_out, "torch.compile").failed)
    asked = bench(looped(), (X,), rounds=1, training=False, arms=("torch.compile",))
    assert arm(asked, "torch.compile").failed is None


def test_a_model_that_draws_is_refused_by_onnx_alone() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = x + torch.rand_like(x)
            return x

    result = bench(Drawing(), (X,), rounds=1, arms=("exact", "onnx"))
    assert arm(result, "exact").error == 0.0, "every arm has the same random numbers"
    assert "rand" in str(arm(result, "onnx").failed)
    assert arm(result, "eager").saved_bytes is None, "it has nothing to train"


def test_the_model_keeps_its_mode() -> None:
    model = nn.Linear(WIDTH, WIDTH).train()
    bench(model, (X,), rounds=1, arms=("eager",))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_every_module_keeps_its_mode() -> None:
    model = looped().train()
    model.a.eval()
    bench(model, (X,), rounds=1, arms=("eager",), training=False)
    assert [part.training for part in (model, model.a, model.b)] == [True, False, True]


class Uncopied(nn.Linear):
    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)
        self.doubled = self.weight * 2


@pytest.mark.parametrize("model", [nn.BatchNorm1d(WIDTH), Uncopied()])
def test_what_cannot_be_trained_or_copied_is_timed_all_the_same(model: nn.Module) -> None:
    (eager,) = bench(model, (X[:1],), rounds=1, arms=("eager",)).arms
    assert (len(eager.seconds), eager.saved_bytes) == (1, None)


def test_inputs_are_not_among_what_training_keeps_wherever_they_stand() -> None:
    class Nested(nn.Linear):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return super().forward(batch["x"])

    (eager,) = bench(Nested(WIDTH, WIDTH), ({"x": X},), rounds=1, arms=("eager",)).arms
    assert eager.saved_bytes == 0


def test_inputs_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(InputError, match="the model fails on the inputs: RuntimeError"):
        bench(nn.Linear(3, 3), (X,), rounds=1)


@pytest.mark.parametrize(("named", "said"), [({"rounds": 0}, "rounds is 0"), ({"arms": ("jax",)}, "no arm 'jax'")])
def test_what_cannot_be_measured_is_refused(named: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        bench(nn.Identity(), (X,), **named)


def test_a_ratio_is_of_the_same_round() -> None:
    eager, other = ArmResult("eager", "", (1.0, 100.0, 2.0)), ArmResult("other", "", (2.0, 200.0, 4.0))
    result = BenchResult("Tiny", (), 1, (eager, other))
    assert result.ratio(other) == 2.0
    assert result.ratio(ArmResult("failed", "")) is None


def test_answers_are_compared_entry_by_entry() -> None:
    wanted = torch.tensor([4.0, -8.0, torch.inf, torch.nan])
    assert run_module._error([wanted.clone()], [wanted]) == 0.0
    assert run_module._error([wanted + torch.tensor([2.0, 0, 0, 0])], [wanted]) == 0.25
    assert math.isnan(run_module._error([torch.zeros(4)], [wanted]) or 0.0)
    assert run_module._error([wanted[:2]], [wanted]) is None
    assert run_module._error([], []) == 0.0
