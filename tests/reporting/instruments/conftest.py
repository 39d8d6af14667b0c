"""Small compiled models that the instruments look at."""

from __future__ import annotations

import pytest
import torch

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options
from laser_fx.zoo.trm import Solve
from tests.small import Contractive, small_trm


@pytest.fixture(scope="session")
def trm() -> CompiledModel:
    """Two supervision steps ⊃ two H cycles ⊃ two L cycles, exact."""
    torch.manual_seed(0)
    solve = Solve(small_trm(), 2).eval()
    return laser_fx.compile(solve, (torch.randint(1, 7, (2, 9)),), options=Options.exact())


@pytest.fixture(scope="session")
def contractive() -> CompiledModel:
    """One loop of six steps with two sites, exact."""
    torch.manual_seed(0)
    return laser_fx.compile(Contractive().eval(), (torch.randn(5, 32),), options=Options.exact())
