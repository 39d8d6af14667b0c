"""The operators of a folded site: contracts of torch.library, decisions at a step, values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from laser_fx import folded_ops, ops, subspace

LASER = torch.ops.laser
N, D, OUT, K = 40, 12, 9, 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = random(N, 3, seed=1) @ random(3, D, seed=2) + 1e-3 * random(N, D, seed=3)
WEIGHT, BIAS = random(OUT, D, seed=4), random(OUT, seed=5)
PROBES = random(OUT, folded_ops.PROBES, seed=6)


def stats(tracked: float = 0.0, reset: float = 0.0, exact: float = 0.0) -> Tensor:
    return torch.tensor([1.0, 2.0, tracked, reset, exact])


def basis(features: int = D, rank: int = K) -> Tensor:
    return subspace.orthonormalise(subspace.sketch(features, rank, 0))


def first(rank: int = K) -> tuple[Tensor, Tensor, Tensor]:
    """What an output site carries into its first step."""
    return torch.zeros(OUT, rank), torch.zeros(D, rank), random(D, folded_ops.PROBES, seed=7)


def step(x: Tensor, state: tuple[Tensor, ...], threshold: float, bias: Tensor | None = None) -> Any:
    """The output of one step, what it carries on, and its stats."""
    sketch = subspace.sketch(OUT, state[0].shape[1], 3)
    y, *following, measured = LASER.output_linear(x, WEIGHT, bias, *state, sketch, PROBES, torch.tensor(threshold))
    return y, tuple(following), measured


@pytest.mark.parametrize("threshold", [0.01, 0.9, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck(threshold: float, bias: bool) -> None:
    b, x, q = BIAS if bias else None, X.reshape(4, 10, D), basis()
    z, folded = subspace.project(x, q), (WEIGHT @ q).mT.contiguous()
    torch.library.opcheck(LASER.fold.default, (WEIGHT, q, folded, stats(tracked=float(bias))))
    torch.library.opcheck(LASER.folded_linear.default, (x, WEIGHT, b, folded, z, stats(exact=float(bias))))
    sketch = subspace.sketch(OUT, K, 3)
    arguments = (x, WEIGHT, b, *first(), sketch, PROBES, torch.tensor(threshold))
    torch.library.opcheck(LASER.output_linear.default, arguments)


@pytest.mark.parametrize(("tracked", "reset"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_basis_that_changed_is_folded_anew(tracked: float, reset: float) -> None:
    folded = LASER.fold(WEIGHT, basis(), torch.full((K, OUT), torch.nan), stats(tracked, reset))
    torch.testing.assert_close(folded, (WEIGHT @ basis()).mT)


def test_a_basis_that_is_kept_is_not_folded_again() -> None:
    at_hand = random(K, OUT)  # not that of the basis: it would be seen
    folded = LASER.fold(WEIGHT, basis(), at_hand, stats())
    assert torch.equal(folded, at_hand)
    assert folded.data_ptr() != at_hand.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_a_folded_linear_is_one_through_the_basis_or_exact(bias: Tensor | None, dtype: torch.dtype) -> None:
    x, weight = X.reshape(4, 10, D).to(dtype), WEIGHT.to(dtype)
    b, q = None if bias is None else bias.to(dtype), basis()
    folded, z = (weight.float() @ q).mT, subspace.project(x, q)
    expected = F.linear(x.float() @ q @ q.mT, weight.float(), None if b is None else b.float()).to(dtype)
    torch.testing.assert_close(LASER.folded_linear(x, weight, b, folded, z, stats()), expected)
    exact = LASER.folded_linear(x, weight, b, folded, z, stats(exact=1.0))
    assert torch.equal(exact, F.linear(x, weight, b))


def test_a_full_basis_is_exact_to_rounding() -> None:
    q = basis(D, D)
    folded = LASER.fold(WEIGHT, q, torch.zeros(D, OUT), stats(tracked=1.0))
    y = LASER.folded_linear(X, WEIGHT, BIAS, folded, X @ q, stats())
    torch.testing.assert_close(y, F.linear(X, WEIGHT, BIAS), atol=1e-5, rtol=1e-5)
    _, state, measured = step(random(N, D, seed=9), first(OUT), 0.9)
    assert measured[ops.EXACT] == 0
    y, _, measured = step(random(N, D, seed=8), state, 0.999, BIAS)
    assert measured[ops.TRACKED] == 0
    torch.testing.assert_close(y, F.linear(random(N, D, seed=8), WEIGHT, BIAS), atol=1e-4, rtol=1e-4)


def test_the_first_step_of_an_output_makes_its_basis_and_returns_the_exact_product() -> None:
    y, (v, down, error), measured = step(X, first(), 0.99, BIAS)
    assert measured[ops.TRACKED :].tolist() == [1, 1, 0]
    torch.testing.assert_close(y, F.linear(X, WEIGHT, BIAS), atol=1e-5, rtol=1e-5)
    assert subspace.orthonormality_error(v) <= 1e-5
    torch.testing.assert_close(down, WEIGHT.mT @ v)
    expected = (WEIGHT.mT - down @ v.mT) @ PROBES / folded_ops.PROBES**0.5
    torch.testing.assert_close(error, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(measured[ops.FIDELITY], subspace.fidelity(X @ WEIGHT.mT, v))


def test_a_good_output_basis_is_kept_and_used() -> None:
    _, state, _ = step(X, first(), 0.99)
    x = 2 * X
    y, following, measured = step(x, state, 0.99, BIAS)
    assert measured[ops.TRACKED :].tolist() == [0, 0, 0]
    assert all(
        torch.equal(new, old) and new.data_ptr() != old.data_ptr() for new, old in zip(following, state, strict=True)
    )
    v = state[0]
    torch.testing.assert_close(y, x @ WEIGHT.mT @ v @ v.mT + BIAS, atol=1e-4, rtol=1e-4)


def test_the_estimate_of_a_loss_is_right_but_for_a_factor() -> None:
    """If all that is lost lies in one direction, it is a sum of 8 squares: half of what it is, once in seven times."""
    ratios = []
    for seed in range(40):
        x = random(N, D, seed=seed)
        _, state, _ = step(x, first(6), 0.5)
        _, _, measured = step(x, state, 0.01)
        true = 1 - subspace.fidelity(x @ WEIGHT.mT, state[0])
        ratios.append(float((1 - measured[ops.FIDELITY]) / true))
    assert all(0.2 < ratio < 3.0 for ratio in ratios)
    assert 0.7 < sum(ratios) / len(ratios) < 1.4


def test_an_output_basis_that_falls_is_tracked_then_reset_then_left() -> None:
    _, state, _ = step(X, first(), 0.99)
    moved = X @ torch.linalg.qr(torch.eye(D) + 0.2 * random(D, D, seed=9))[0]
    _, _, measured = step(moved, state, 0.99)
    assert measured[ops.TRACKED :].tolist() == [1, 0, 0]
    full = random(N, D, seed=10)
    y, following, measured = step(full, state, 0.999, BIAS)
    assert measured[ops.TRACKED :].tolist() == [1, 1, 1]
    torch.testing.assert_close(y, F.linear(full, WEIGHT, BIAS), atol=1e-5, rtol=1e-5)
    assert step(X, following, 0.99)[2][ops.EXACT] == 0


def test_nan_makes_an_output_exact_and_the_next_step_recovers() -> None:
    broken = X.clone()
    broken[0, 0] = torch.nan
    _, state, measured = step(broken, first(), 0.99)
    assert measured[ops.EXACT] == 1
    assert measured[ops.FIDELITY].isnan()
    assert step(X, state, 0.99)[2][ops.EXACT] == 0


def test_a_zero_activation_has_a_zero_output() -> None:
    y, _, measured = step(torch.zeros(3, D), first(), 0.99, BIAS)
    assert measured.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert torch.equal(y, BIAS.expand(3, OUT))


def test_autocast_lowers_the_result_alone() -> None:
    _, state, _ = step(X, first(), 0.99)
    expected = step(X, state, 0.99, BIAS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _, measured = step(X, state, 0.99, BIAS)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected[0], atol=0.05, rtol=0.02)
    torch.testing.assert_close(measured, expected[2])
