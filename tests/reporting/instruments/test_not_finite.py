"""Activations that are not finite: the report says so, and says no rank, angle or cosine of them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.options import Options
from laser_fx.reporting import Report
from laser_fx.reporting.instruments.trajectories import _cosine
from laser_fx.subspace import spectrum


class Logarithms(nn.Module):
    """NaN from the second step on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        nn.init.constant_(self.linear.weight, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = torch.log(self.linear(x))
        return x


def test_inspect_tells_and_prints() -> None:
    report = laser_fx.inspect(Logarithms(), torch.ones(3, 8), measure=("spectra", "trajectories", "dynamics"))
    assert any("NaN or infinities" in warning and "loop_0:linear" in warning for warning in report.warnings)
    (site,) = report.sites
    assert site.rank_at == ()
    assert site.energy is None
    assert site.spectra[-1].ranks == ()
    assert [step.change for step in report.trajectories[0].steps] == [None] * 4
    assert "NaN or infinities" in str(report)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False))) == report


def test_a_site_of_which_nothing_is_known_gets_every_column() -> None:
    options = Options(sites="all")
    compiled = laser_fx.compile(Logarithms().eval(), (torch.ones(3, 8),), options=options)
    assert [site.rank for site in compiled.sites] == [8]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_spectrum_of_what_is_not_finite_is_nan(value: float) -> None:
    x = torch.ones(3, 8)
    x[1, 2] = value
    assert spectrum(x).isnan().all()
    assert spectrum(x).shape == (8,)


def test_nothing_has_an_angle_to_nan() -> None:
    assert _cosine(torch.full((3,), math.nan), torch.ones(3)) is None
    assert _cosine(torch.ones(3), -torch.ones(3)) == pytest.approx(-1.0)
