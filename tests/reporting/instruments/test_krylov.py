from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigs
from torch import Tensor

from laser_fx.reporting.instruments.krylov import Eigenvalue, leading_eigenvalues, norm_bound


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned(core: Tensor, seed: int = 1) -> Tensor:
    """The same map in a random orthonormal basis."""
    basis = torch.linalg.qr(random(*core.shape, seed=seed))[0]
    return basis @ core @ basis.mT


def rotation(radius: float, angle: float) -> Tensor:
    c, s = radius * math.cos(angle), radius * math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def found(matrix: Tensor, count: int = 4, **limits: float) -> list[Eigenvalue]:
    return leading_eigenvalues(lambda v: matrix @ v, random(len(matrix), seed=3), count, **limits)  # type: ignore[arg-type]


def leading(matrix: Tensor) -> list[complex]:
    return sorted(torch.linalg.eigvals(matrix).tolist(), key=lambda value: (-round(abs(value), 10), -value.imag))


CORES = {
    "contracting": torch.diag(0.8 ** torch.arange(1, 61, dtype=torch.float64)),
    "expanding": torch.diag(torch.cat([torch.tensor([-3.0, 1.4]).double(), torch.linspace(0.1, 0.9, 58).double()])),
    "rotating": torch.block_diag(rotation(1.2, 0.7), rotation(0.9, 2.0), 0.02 * random(56, 56)),
    "random": random(60, 60, seed=5) / 60**0.5,
}


@pytest.mark.parametrize("name", CORES)
def test_leading_eigenvalues_are_those_of_the_matrix(name: str) -> None:
    matrix = turned(CORES[name])
    answer, expected = found(matrix, products=200, tolerance=1e-9), leading(matrix)
    for mine, theirs in zip(answer, expected, strict=False):
        assert abs(mine.value) == pytest.approx(abs(theirs), rel=1e-6)
        assert min(abs(mine.value - value) for value in expected) < 1e-6
    assert len(answer) >= 4
    assert all(one.residual < 1e-6 for one in answer)


def test_pairs_are_never_parted() -> None:
    matrix = turned(CORES["rotating"])
    values = [one.value for one in found(matrix, count=1)]
    assert len(values) == 2
    assert values[0] == values[1].conjugate()


@pytest.mark.parametrize("size", [2, 40])
def test_a_defective_matrix_has_its_eigenvalue(size: int) -> None:
    core = 0.3 * torch.eye(size, dtype=torch.float64)
    core[0, 0] = core[1, 1] = 0.9
    core[0, 1] = 1.0
    answer = found(turned(core), count=2)
    # An eigenvalue of a Jordan block of two moves by the square root of rounding.
    assert [abs(one.value) for one in answer] == pytest.approx([0.9, 0.9], abs=1e-6)


def test_a_jordan_block_larger_than_what_is_held_keeps_its_radius_within_its_residual() -> None:
    core = 0.5 * torch.eye(200, dtype=torch.float64) + torch.diag(torch.full((199,), 0.2).double(), 1)
    for one in found(turned(core)):
        # It is the pseudospectrum that such a matrix shows: the residual says how near, the field of values bounds it.
        assert abs(one.value) <= 0.7 + 1e-9
        assert one.residual > 1e-12


def test_nilpotent_zero_and_tiny_matrices_have_answers() -> None:
    assert found(torch.zeros(3, 3).double())[0].value == 0
    assert found(torch.tensor([[2.5]]).double()) == [Eigenvalue(2.5, 0.0)]
    shift = torch.diag(torch.ones(4).double(), 1)
    assert max(abs(one.value) for one in found(shift)) < 1e-3  # a fifth root of rounding


def test_residuals_are_those_of_the_vectors_even_where_products_run_out() -> None:
    """For a normal matrix an eigenvalue lies within the residual of each answer."""
    core = torch.diag(torch.linspace(0.9, 1.0, 300).double())
    answer = found(turned(core), products=30)
    assert max(one.residual for one in answer) > 1e-3
    values = torch.linspace(0.9, 1.0, 300).double()
    for one in answer:
        assert float((values - one.value.real).abs().min()) <= one.residual * abs(one.value) + 1e-12
    assert answer[0].value.real <= 1.0 + 1e-12


def test_as_many_products_as_allowed_are_made() -> None:
    calls = 0

    def product(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return CORES["random"] @ v

    leading_eigenvalues(product, random(60), products=37, tolerance=0.0)
    assert calls == 37


def test_it_agrees_with_arpack() -> None:
    matrix = turned(CORES["random"])
    operator = LinearOperator(matrix.shape, matvec=lambda v: (matrix @ torch.from_numpy(v)).numpy(), dtype=np.float64)
    theirs = sorted(np.abs(eigs(operator, k=4, return_eigenvectors=False)), reverse=True)
    mine = [abs(one.value) for one in found(matrix, products=200, tolerance=1e-9)]
    assert mine[:4] == pytest.approx(theirs, rel=1e-6)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**31))
def test_the_radius_of_any_matrix_is_found(size: int, seed: int) -> None:
    matrix = random(size, size, seed=seed)
    answer = found(matrix, products=400, tolerance=1e-8)
    assert abs(answer[0].value) == pytest.approx(abs(leading(matrix)[0]), rel=1e-5)


@pytest.mark.parametrize("name", CORES)
def test_the_norm_is_bounded_from_below_and_nearly_met(name: str) -> None:
    matrix = turned(CORES[name]) @ torch.diag(torch.linspace(0.1, 2.0, 60).double())
    bound = norm_bound(lambda v: matrix @ v, lambda v: matrix.mT @ v, random(60))
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    assert 0.97 * norm <= bound <= norm * (1 + 1e-9)


def test_the_norm_of_nothing_is_zero() -> None:
    assert norm_bound(torch.zeros_like, torch.zeros_like, random(5)) == 0.0
