"""What the mathematics of `laser_fx.subspace` promises, for any shape, scale and condition number."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from laser_fx import subspace

COMMON = settings(max_examples=40)
SEEDS = st.integers(0, 2**31)


def matrix(rows: int, columns: int, seed: int, condition: float = 1.0, rank: int | None = None) -> Tensor:
    """A matrix with singular values from 1 down to 1/condition, the rest zero beyond ``rank``."""
    generator = torch.Generator().manual_seed(seed)
    least = min(rows, columns)
    u = torch.linalg.qr(torch.randn(rows, least, generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, least, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -float(torch.tensor(condition).log10()), least, dtype=torch.float64)
    values[least if rank is None else rank :] = 0
    return ((u * values) @ v.mT).float()


def basis(features: int, rank: int, seed: int) -> Tensor:
    return subspace.orthonormalise(subspace.sketch(features, rank, seed))


@COMMON
@given(st.integers(1, 30), st.integers(1, 24), st.data(), SEEDS, st.floats(-8, 8))
def test_fidelity_lies_between_zero_and_one(
    rows: int, features: int, data: st.DataObject, seed: int, scale: float
) -> None:
    rank = data.draw(st.integers(1, features))
    x = matrix(rows, features, seed, condition=1e3) * 10**scale
    assert 0.0 <= subspace.fidelity(x, basis(features, rank, seed + 1)).item() <= 1.0


@COMMON
@given(st.integers(1, 24), SEEDS)
def test_a_full_basis_has_fidelity_one(features: int, seed: int) -> None:
    x = torch.randn(7, features, generator=torch.Generator().manual_seed(seed))
    assert subspace.fidelity(x, basis(features, features, seed)).item() == pytest.approx(1.0, abs=1e-5)


@COMMON
@given(st.integers(2, 60), st.integers(1, 40), st.integers(0, 5), SEEDS)
@example(13, 15, 5, 2_147_483_647)
def test_columns_are_orthonormal_up_to_condition_1e5(features: int, rank: int, exponent: int, seed: int) -> None:
    q = subspace.orthonormalise(matrix(features, rank, seed, condition=10.0**exponent))
    assert subspace.orthonormality_error(q).item() <= 1e-5
    assert int(q.any(0).sum()) <= min(features, rank)
    if exponent < 5:  # beyond, a column may lie within rounding of those before it, and a later one takes its place
        assert not q[:, min(features, rank) :].any()


@COMMON
@given(st.integers(4, 40), st.data(), SEEDS)
def test_surplus_columns_of_a_rank_deficient_matrix_are_zero_and_the_span_is_kept(
    features: int, data: st.DataObject, seed: int
) -> None:
    rank = data.draw(st.integers(1, features - 1))
    independent = matrix(features, rank, seed, condition=10.0)
    order = torch.randperm(2 * rank + 1, generator=torch.Generator().manual_seed(seed))
    y = torch.cat([independent, 3 * independent.flip(1), torch.zeros(features, 1)], dim=1)[:, order]
    q = subspace.orthonormalise(y)
    assert int(q.any(0).sum()) == rank
    assert subspace.orthonormality_error(q).item() <= 1e-5
    torch.testing.assert_close(q @ (q.mT @ y), y, atol=1e-5, rtol=0)


def test_a_duplicate_before_an_independent_column_does_not_hide_it() -> None:
    y = torch.eye(4)[:, [0, 0, 1, 1, 2]]
    torch.testing.assert_close(subspace.orthonormalise(y), y * torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_scale_of_the_columns_does_not_matter(scale: float) -> None:
    y = matrix(20, 6, 0, condition=10.0)
    torch.testing.assert_close(subspace.orthonormalise(y * scale), subspace.orthonormalise(y), atol=1e-4, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_columns_that_are_not_finite_become_zero(bad: float) -> None:
    y = matrix(8, 3, 0)
    y[2, 1] = bad
    q = subspace.orthonormalise(y)
    assert q.isfinite().all()
    assert not q[:, 1].any()
    assert q[:, 2].any()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_smallest_shapes(shape: tuple[int, int]) -> None:
    q = subspace.orthonormalise(torch.ones(shape))
    assert q.shape == shape
    assert subspace.orthonormality_error(q).item() <= 1e-6


@COMMON
@given(st.integers(2, 30), st.integers(2, 24), st.data(), st.integers(0, 2), SEEDS)
def test_tracking_never_lowers_fidelity(
    rows: int, features: int, data: st.DataObject, exponent: int, seed: int
) -> None:
    """True for every X and every orthonormal Q, by the inequality in `subspace.track`; the slack is rounding."""
    rank = data.draw(st.integers(1, features))
    x = matrix(rows, features, seed, condition=10.0**exponent)
    q = basis(features, rank, seed + 1)
    before, after = subspace.fidelity(x, q), subspace.fidelity(x, subspace.track(x, q))
    assert after.item() >= before.item() - 1e-4


@COMMON
@given(st.integers(1, 12), SEEDS)
def test_range_finder_finds_the_range_of_a_low_rank_matrix(rank: int, seed: int) -> None:
    x = matrix(40, 16, seed, condition=10.0, rank=rank)
    q = subspace.range_finder(x, subspace.sketch(16, min(16, rank + 2), seed))
    assert subspace.fidelity(x, q).item() >= 1 - 1e-4


def test_range_finder_is_near_the_best_basis() -> None:
    x = matrix(64, 48, 3, condition=1e3)
    best = subspace.spectrum(x).square()
    share = (best[:12].sum() / best.sum()).item()
    assert subspace.fidelity(x, subspace.range_finder(x, subspace.sketch(48, 12, 0))).item() >= share - 0.05


def test_zero_activations_have_fidelity_one_and_need_no_rank() -> None:
    x = torch.zeros(3, 5)
    measured, energies, total = subspace.measure(x, basis(5, 2, 0))
    assert measured.item() == 1.0
    assert subspace.needed_rank(energies, total, 0.9).item() == 0
    assert not subspace.track(x, basis(5, 2, 0)).any()


def test_a_basis_that_is_not_orthonormal_has_fidelity_zero() -> None:
    q = basis(6, 3, 0)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    assert subspace.fidelity(x, q * 1.001).item() == 0.0
    assert subspace.fidelity(x, torch.full_like(q, torch.nan)).item() == 0.0


def test_nan_in_the_activation_makes_fidelity_nan() -> None:
    x = torch.ones(4, 6)
    x[1, 1] = torch.nan
    assert subspace.fidelity(x, basis(6, 3, 0)).isnan()


@COMMON
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), st.floats(0.0625, 1, width=32))
def test_needed_rank_is_the_least_that_reaches_the_threshold(energies: list[float], threshold: float) -> None:
    values = torch.tensor(energies)
    descending = values.sort(descending=True).values
    prefixes = torch.cat([torch.zeros(1), descending.cumsum(0)])
    rank = int(subspace.needed_rank(values, values.sum(), threshold))
    reached = (prefixes >= threshold * values.sum()).nonzero().flatten()
    assert rank == (int(reached[0]) if reached.numel() else len(energies))


def test_sketch_depends_on_its_seed_alone() -> None:
    torch.manual_seed(1)
    first = subspace.sketch(5, 3, "loop_0:up")
    torch.manual_seed(2)
    assert torch.equal(first, subspace.sketch(5, 3, "loop_0:up"))
    assert not torch.equal(first, subspace.sketch(5, 3, "loop_0:down"))


@pytest.mark.parametrize("shape", [(3, 8), (20, 8), (2, 5, 8)])
def test_spectrum_equals_the_singular_values(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.svdvals(x.reshape(-1, 8))
    values = subspace.spectrum(x)
    assert values.shape == (8,)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[: len(expected)], expected, atol=1e-5, rtol=1e-5)
    assert not values[len(expected) :].any()


def factor(q: Tensor, *activations: Tensor) -> Tensor:
    """What is left of activations that were seen with one basis."""
    products = [(x, subspace.project(x, q)) for x in activations]
    y = torch.stack([x.mT @ z for x, z in products]).sum(0)
    return subspace.nystrom_factor(y, torch.stack([z.mT @ z for _, z in products]).sum(0))


@COMMON
@given(st.integers(1, 20), st.integers(2, 24), st.data(), SEEDS)
def test_pooled_energies_are_never_overstated(rows: int, features: int, data: st.DataObject, seed: int) -> None:
    ranks = [data.draw(st.integers(1, features)) for _ in range(3)]
    activations = [matrix(rows, features, seed + step, condition=100.0) for step in range(3)]
    bases = [basis(features, rank, seed + step) for step, rank in enumerate(ranks)]
    seen = torch.cat([factor(q, x) for q, x in zip(bases, activations, strict=True)], dim=1)
    directions, energies = subspace.principal(seen)
    q = subspace.orthonormalise(directions)
    assert energies.shape[0] == q.shape[1] <= min(features, sum(ranks))
    assert torch.equal(energies.sort(descending=True).values, energies)
    held = torch.stack([subspace.column_energies(x, q) for x in activations]).sum(0)
    total = float(torch.stack([subspace.energy(x) for x in activations]).sum())
    assert (energies.cumsum(0) <= held.cumsum(0) + 1e-3 * total).all()
    # Never less than the first basis held of what was seen with it, but for directions of rounding noise.
    first = float(subspace.column_energies(activations[0], bases[0]).sum())
    assert float(energies.sum()) >= first - 1e-3 * total


@pytest.mark.parametrize("split", [1, 2])
def test_pooled_full_bases_give_the_pooled_spectrum(split: int) -> None:
    activations = [matrix(30, 8, seed, condition=10.0) for seed in range(4)]
    seen = [factor(basis(8, 8, seed), *activations[seed::split]) for seed in range(split)]
    directions, energies = subspace.principal(torch.cat(seen, dim=1))
    expected = subspace.spectrum(torch.cat(activations)).square()
    torch.testing.assert_close(energies, expected, atol=1e-4, rtol=1e-3)
    held = torch.stack([subspace.column_energies(x, directions) for x in activations]).sum(0)
    torch.testing.assert_close(held, expected, atol=1e-3, rtol=1e-3)


def test_a_narrow_factor_has_the_spectrum_of_a_wide_one() -> None:
    narrow = matrix(9, 4, 0, condition=10.0)
    directions, energies = subspace.principal(narrow)
    wide_directions, wide = subspace.principal(torch.cat([narrow, torch.zeros(9, 9)], dim=1))
    torch.testing.assert_close(energies, wide[:4], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        directions @ directions.mT, wide_directions[:, :4] @ wide_directions[:, :4].mT, atol=1e-3, rtol=0
    )


def test_nothing_pooled_is_no_direction() -> None:
    for rank in (0, 3):
        left = subspace.nystrom_factor(torch.zeros(5, rank), torch.zeros(rank, rank))
        assert left.shape == (5, 0)
        directions, energies = subspace.principal(left)
        assert (directions.shape, energies.shape) == ((5, 0), (0,))
