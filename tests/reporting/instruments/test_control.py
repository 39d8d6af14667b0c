from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import InputError
from laser_fx.reporting.instruments.control import redrawn
from laser_fx.zoo.trm import TRM, TRMConfig
from tests.small import Contractive, same, small_trm


def test_weights_are_drawn_anew_the_same_each_time_and_nothing_else_changes() -> None:
    module = Contractive().train()
    before, random = copy.deepcopy(module.state_dict()), torch.random.get_rng_state()
    first, kept = redrawn(module)
    second, _ = redrawn(module)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert same(module.state_dict(), before)
    assert same(first.state_dict(), second.state_dict())
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), module.parameters(), strict=True))
    assert not same(first.state_dict(), redrawn(module, seed=1)[0].state_dict())
    assert first.training
    assert kept == ()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(torch.ones(32)), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.linear(x) * self.scale)
        return x


def test_what_keeps_its_weights_is_named_in_a_warning() -> None:
    report = laser_fx.inspect(Scaled(), torch.randn(4, 32), measure=(), control=True)
    assert report.warnings[-1] == "the control keeps what is in Scaled: no reset_parameters there"
    assert redrawn(Scaled())[1] == ("Scaled",)


@pytest.mark.parametrize("changes", [{}, {"mlp_t": True, "pos_encodings": "none"}, {"pos_encodings": "learned"}])
def test_a_model_of_the_zoo_begins_as_a_new_one_does(changes: dict[str, object]) -> None:
    model = small_trm(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)
    fresh, kept = redrawn(model)
    assert kept == ()
    new = TRM(TRMConfig(**vars(model.config)))
    for (name, mine), theirs in zip(fresh.named_parameters(), new.parameters(), strict=True):
        # Equal where it starts at a constant, else of equal spread, to what so many draws allow.
        assert mine.std(correction=0).item() == pytest.approx(theirs.std(correction=0).item(), rel=0.3), name
        assert not (mine == 3.0).any()


def test_the_control_stands_beside_the_model() -> None:
    report = laser_fx.inspect(Contractive(), torch.randn(4, 32), measure=("picture", "dynamics"), control=True)
    control = report.control
    assert control is not None
    assert (control.loops, control.picture, control.control) == (report.loops, None, None)
    assert len(control.dynamics[0].steps) == len(report.dynamics[0].steps)
    assert control.dynamics != report.dynamics
    assert laser_fx.reporting.Report.from_dict(report.to_dict()) == report


def test_each_module_keeps_its_mode() -> None:
    module = Contractive().train()
    module.down.eval()
    laser_fx.inspect(module, torch.randn(4, 32), measure=())
    assert (module.training, module.up.training, module.down.training) == (True, True, False)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="the model is a int"):
        laser_fx.inspect(3, torch.randn(4, 32))  # type: ignore[arg-type]


class Particular(nn.Module):
    """Its ``reset_parameters`` asks for what only its author knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.linear = nn.Parameter(torch.eye(32)), nn.Linear(32, 32)

    def reset_parameters(self, spread: float) -> None:
        nn.init.normal_(self.weight, std=spread)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.linear(x) @ self.weight)
        return x


def test_a_reset_that_needs_arguments_is_not_called() -> None:
    module = Particular()
    fresh, kept = redrawn(module, seed=1)
    assert kept == ("Particular",)
    assert torch.equal(fresh.weight, module.weight)
    assert not torch.equal(fresh.linear.weight, module.linear.weight)


def test_a_model_that_cannot_be_copied_is_refused_in_a_sentence() -> None:
    module = Contractive()
    module.scale = torch.ones(1, requires_grad=True) * 2  # holds its history
    with pytest.raises(InputError, match="the model cannot be copied: Only Tensors"):
        redrawn(module)
    report = laser_fx.inspect(module, torch.randn(4, 32), measure="memory")
    assert report.memory == ()
    assert sum("not measured: the model cannot be copied" in warning for warning in report.warnings) == 2
