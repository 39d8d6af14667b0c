"""Measuring changes nothing: outputs, weights, inputs, random state, grad mode and flags."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.reporting.instruments.choose import MEASURES
from tests.small import Contractive, same


class Normed(Contractive):
    """Draws random numbers in training, writes into buffers there, and works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(32), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        z = x.clone()
        for _ in range(4):
            z = z.add_(self.drop(self.norm(self.down(torch.relu_(self.up(z))))))
        return z


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "onnx"])  # which writes the same program
@pytest.mark.parametrize("kind", [Contractive, Normed])
def test_measuring_leaves_everything_as_it_was(kind: Any, measure: Any, grad: bool, compiled: Any) -> None:
    module, x = compiled(kind)
    model = module.program.model
    before = copy.deepcopy((model.state_dict(), x, [p.requires_grad for p in model.parameters()]))
    with torch.set_grad_enabled(grad):
        answer = model(x)
        random = torch.random.get_rng_state()
        report = module.report(training=measure == "memory", measure=(measure,))
        assert torch.is_grad_enabled() is grad
        assert torch.equal(torch.random.get_rng_state(), random)
        assert same(model(x), answer)
    assert same((model.state_dict(), x, [p.requires_grad for p in model.parameters()]), before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    if measure == "spectra":
        assert all(site.spectra for site in report.sites)
    elif measure == "memory" and kind is Normed:
        assert any(w.startswith("the model cannot be compiled for training") for w in report.warnings)
        assert any(w.startswith("memory is not measured, training fails") for w in report.warnings)
    else:
        assert getattr(report, measure)


@pytest.fixture(scope="module")
def compiled() -> Any:
    known: dict[Any, Any] = {}

    def compiled(kind: Any) -> Any:
        if kind not in known:
            module, x = kind().eval(), torch.randn(6, 32)
            known[kind] = laser_fx.compile(module, (x,), options=laser_fx.Options.exact()), x
        return known[kind]

    return compiled


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.linear(x)) + torch.randn_like(x)
        return x


def test_inspecting_a_model_that_draws_leaves_the_random_state() -> None:
    model, x = Noisy(), torch.randn(4, 8)
    random = torch.random.get_rng_state()
    laser_fx.inspect(model, x)
    assert torch.equal(torch.random.get_rng_state(), random)
