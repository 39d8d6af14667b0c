"""Directions of a site, and what leaving some out does to the answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laser_fx.calibration import Objective, SiteBasis
from laser_fx.calibrator.directions import OBJECTIVES, directions

D, F = 9, 14


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """An activation, a weight, and gradients, of directions with different strengths."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(200, D, generator=draw) * torch.logspace(0, -2, D)
    weight = torch.randn(F, D, generator=draw)
    gradients = torch.randn(200, F, generator=draw) * torch.logspace(-2, 0, F)
    return x.double(), weight.double(), gradients.double()


def lost(x: Tensor, weight: Tensor, gradients: Tensor, basis: SiteBasis) -> float:
    """Mean square of what a random reading of the answer moves by, summed over rows."""
    y, q = x @ weight.mT, basis.basis.double()
    if basis.objective == "activation":
        kept = x @ q @ (weight @ q).mT
    else:
        kept = y @ q @ (q if basis.dual is None else basis.dual.double()).mT
    sensitivity = gradients.mT @ gradients
    sensitivity += 1e-3 * sensitivity.diagonal().mean() * torch.eye(F)  # as it is damped
    return float(((y - kept) @ sensitivity * (y - kept)).sum())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tails_are_what_the_answer_loses(objective: Objective) -> None:
    x, weight, gradients = case()
    found = directions((x.mT @ x)[None], weight, gradients.mT @ gradients, objective, (), "site")
    assert found.tails[-1] == 0
    assert bool((found.tails.diff() <= 0).all())
    for rank in (1, 4, 8):
        # Bases are stored in float32.
        expected = lost(x, weight, gradients, found.site_basis(rank))
        assert float(found.tails[rank]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_of_few_directions_leaves_other_steps_theirs(objective: Objective) -> None:
    x, weight, gradients = case()
    first = x[:2].mT @ x[:2]  # as a state that starts equal in every row
    found = directions(torch.stack([first, x.mT @ x]), weight, gradients.mT @ gradients, objective, (2,), "site")
    alone = directions((x.mT @ x)[None], weight, gradients.mT @ gradients, objective, (), "site")
    assert found.site_basis(D).rank == D
    assert found.site_basis(D).error() < 1e-5
    torch.testing.assert_close(found.tails[2:], alone.tails[2:])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_is_known_of_a_site_that_never_carries_anything(objective: Objective) -> None:
    _, weight, gradients = case()
    found = directions(torch.zeros(1, D, D).double(), weight, gradients.mT @ gradients, objective, (), "site")
    assert found.tails.tolist() == [0.0]
    found = directions(torch.eye(D)[None].double(), 0 * weight, gradients.mT @ gradients, objective, (), "site")
    assert not found.tails.any()
    assert found.site_basis(3).error() < 1e-5


def test_the_answer_s_directions_lose_the_least() -> None:
    for seed in range(3):
        x, weight, gradients = case(seed)
        tails = {
            objective: directions((x.mT @ x)[None], weight, gradients.mT @ gradients, objective, (), "site").tails
            for objective in OBJECTIVES
        }
        for rank in range(1, D):
            assert tails["answer"][rank] <= tails["output"][rank] * 1.001
            assert tails["answer"][rank] <= tails["activation"][rank] * 1.001
        assert tails["answer"][3] < 0.8 * min(tails["output"][3], tails["activation"][3])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bases_are_orthonormal_or_dual_and_steps_stand_in_front(objective: Objective) -> None:
    x, weight, gradients = case()
    moments = torch.stack([part.mT @ part for part in x.chunk(6)])
    found = directions(moments, weight, gradients.mT @ gradients, objective, (2, 3), "site").site_basis(5)
    assert found.error() < 1e-4
    assert found.basis.shape == (2, 3, D if objective == "activation" else F, 5)
    assert found.is_per_step
    if objective == "answer":
        assert found.probes is not None
        assert found.probes.shape == (2, 3, F, 8)


def test_an_answer_that_depends_on_nothing_weighs_all_outputs_alike() -> None:
    x, weight, _ = case()
    nothing = torch.zeros(F, F, dtype=torch.float64)
    answer, output = (directions((x.mT @ x)[None], weight, nothing, o, (), "site") for o in ("answer", "output"))
    torch.testing.assert_close(answer.tails, output.tails)
