"""Sites whose bases do not keep up are warned of, once each."""

from __future__ import annotations

import logging

import pytest
import torch

import laser_fx
from laser_fx.alarms import Alarms
from laser_fx.loops import Step
from laser_fx.zoo.families.universal import UniversalTransformer

KEPT = Step(0.99, 3, False, False, False)
RESET = Step(0.99, 3, True, True, False)


def test_a_site_is_warned_of_once_and_only_above_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    alarms = Alarms()
    recorded = {"loop_0:up": [RESET, RESET, RESET], "loop_0:down": [RESET, KEPT, KEPT], "loop_1:one": [RESET]}
    with caplog.at_level(logging.WARNING, logger="laser_fx"):
        alarms.check(recorded, 0.5)
        alarms.check(recorded, 0.5)
    assert [record.site for record in caplog.records] == ["loop_0:up"]  # type: ignore[attr-defined]


def test_training_by_the_letter_raises_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    options = laser_fx.Options(forward="exact", memory="laser", fidelity=0.9999, rank=2, reset_alarm=0.1)
    model = laser_fx.compile(UniversalTransformer(), options=options)
    with caplog.at_level(logging.WARNING, logger="laser_fx"):
        model(torch.randn(4, 8, 16))
    assert "made a fresh basis" in caplog.text
