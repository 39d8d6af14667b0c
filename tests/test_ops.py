"""The `laser::` operators: contracts of torch.library, decisions at a site, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from laser_fx import ops, subspace

LASER = torch.ops.laser


def random(*shape: int, seed: int = 0, **options: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(**options)


def low_rank(rows: int, features: int, rank: int) -> Tensor:
    return random(rows, rank, seed=1) @ random(rank, features, seed=2) + 1e-3 * random(rows, features, seed=3)


def basis(features: int, rank: int) -> Tensor:
    return subspace.orthonormalise(subspace.sketch(features, rank, 0))


def stats(exact: bool) -> Tensor:
    return torch.tensor([1.0, 2.0, 0.0, 0.0, float(exact)])


def site(x: Tensor, q: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    at = torch.tensor(threshold)
    sketch = subspace.sketch(x.shape[-1], q.shape[1], 7)
    q, _, measured = LASER.reset(x, *LASER.track(x, q, at), sketch, at)
    return q, measured


def samples(grad: bool, exact: bool = False) -> tuple[Any, ...]:
    x = random(2, 5, 6).requires_grad_(grad)
    weight, bias = random(4, 6, seed=1).requires_grad_(grad), random(4, seed=2).requires_grad_(grad)
    q = basis(6, 3)
    return x, weight, bias, q, coefficients(x, q, exact), stats(exact)


def coefficients(x: Tensor, q: Tensor, exact: bool = False) -> Tensor:
    z = subspace.project(x.detach(), q)
    return z[:0].clone() if exact else z


@pytest.mark.parametrize("threshold", [0.01, 0.9])
def test_opcheck_of_the_measuring_operators(threshold: float) -> None:
    x, q, at = low_rank(10, 6, 3).reshape(2, 5, 6), basis(6, 3), torch.tensor(threshold)
    torch.library.opcheck(LASER.track.default, (x, q, at))
    sketch = subspace.sketch(6, 3, 1)
    torch.library.opcheck(
        LASER.reset.default, (x, q, coefficients(x, q), torch.tensor(0.5), torch.tensor(0.0), sketch, at)
    )
    torch.library.opcheck(LASER.spectrum.default, (x,))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_opcheck_of_the_linear(grad: bool, bias: bool) -> None:
    x, weight, b, *rest = samples(grad)
    arguments = (x, weight, b if bias else None, *rest)
    torch.library.opcheck(LASER.linear.default, arguments)


def test_no_operator_returns_its_input() -> None:
    x, q, at = random(5, 6), basis(6, 6), torch.tensor(0.01)
    kept, z, fidelity, tracked = LASER.track(x, q, at)
    again, same, _ = LASER.reset(x, kept, z, fidelity, tracked, subspace.sketch(6, 6, 0), at)
    assert torch.equal(kept, q)
    assert torch.equal(again, q)
    assert torch.equal(same, z)
    assert len({t.untyped_storage().data_ptr() for t in (q, kept, again, z, same)}) == 5


@pytest.mark.parametrize("threshold", [0.01, 0.5, 0.99])
def test_the_coefficients_are_those_of_the_basis_and_have_no_rows_where_the_step_is_exact(threshold: float) -> None:
    x, q, at = random(40, 12), basis(12, 4), torch.tensor(threshold)
    tracked = LASER.track(x, q, at)
    torch.testing.assert_close(tracked[1], subspace.project(x, tracked[0]))
    q, z, measured = LASER.reset(x, *tracked, subspace.sketch(12, 4, 7), at)
    torch.testing.assert_close(z, subspace.project(x, q)[: 0 if measured[ops.EXACT] else 40])


def test_a_good_basis_is_kept() -> None:
    x = low_rank(30, 12, 3)
    q = subspace.range_finder(x, subspace.sketch(12, 4, 0))
    following, measured = site(x, q, 0.99)
    assert torch.equal(following, q)
    assert measured[ops.TRACKED] == 0
    assert measured[ops.RESET] == 0
    assert measured[ops.EXACT] == 0
    assert 1 <= measured[ops.RANK] <= 3


def test_a_bad_basis_is_tracked() -> None:
    x = low_rank(30, 12, 3)
    _, measured = site(x, basis(12, 4), 0.99)
    assert measured[ops.TRACKED] == 1
    assert measured[ops.RESET] == 0
    assert measured[ops.FIDELITY] >= 0.99


def test_a_basis_that_tracking_cannot_save_is_reset() -> None:
    x = low_rank(30, 12, 3)
    _, measured = site(x, torch.zeros(12, 4), 0.99)
    assert measured[ops.TRACKED] == 1
    assert measured[ops.RESET] == 1
    assert measured[ops.EXACT] == 0


def test_a_rank_that_is_too_small_forces_exact() -> None:
    _, measured = site(random(40, 12), basis(12, 2), 0.99)
    assert measured[ops.TRACKED :].tolist() == [1, 1, 1]
    assert measured[ops.RANK] == 2


def test_nan_forces_exact_and_the_next_step_recovers() -> None:
    x = low_rank(30, 12, 3)
    broken = x.clone()
    broken[0, 0] = torch.nan
    q, measured = site(broken, basis(12, 4), 0.99)
    assert measured[ops.EXACT] == 1
    assert measured[ops.FIDELITY].isnan()
    _, measured = site(x, q, 0.99)
    assert measured[ops.EXACT] == 0


def test_zero_activations_keep_any_basis() -> None:
    q = basis(12, 4)
    following, measured = site(torch.zeros(3, 12), q, 0.99)
    assert torch.equal(following, q)
    assert measured.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 12), st.data(), st.floats(0.0625, 1.0), st.integers(0, 999))
def test_a_step_never_uses_a_basis_below_the_threshold(
    rows: int, features: int, data: st.DataObject, threshold: float, seed: int
) -> None:
    rank = data.draw(st.integers(1, features))
    x = random(rows, features, seed=seed)
    q, measured = site(x, basis(features, rank), threshold)
    true = subspace.fidelity(x, q)
    torch.testing.assert_close(measured[ops.FIDELITY], true)
    assert bool(measured[ops.EXACT]) == (not bool(measured[ops.FIDELITY] >= torch.tensor(threshold)))


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_at_full_rank_are_those_of_a_linear(exact: bool) -> None:
    x, weight, bias, _, _, s = samples(True, exact)
    full = basis(6, 6)
    y = LASER.linear(x, weight, bias, full, coefficients(x, full, exact), s)
    cotangent = random(2, 5, 4, seed=9)
    ours = torch.autograd.grad(y, (x, weight, bias), cotangent)
    theirs = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), cotangent)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_training_forward_is_bitwise_a_linear(dtype: torch.dtype) -> None:
    x, weight, bias = random(3, 5, 6, dtype=dtype), random(4, 6, dtype=dtype, seed=1), random(4, dtype=dtype, seed=2)
    q = basis(6, 3)
    y = LASER.linear(x, weight, bias, q, coefficients(x, q), stats(False))
    assert torch.equal(y, F.linear(x, weight, bias))


def test_the_weight_gradient_is_that_of_the_projected_activation() -> None:
    x, weight, bias, q, z, s = samples(True)
    LASER.linear(x, weight, bias, q, z, s).square().sum().backward()
    grad_y = 2 * F.linear(x, weight, bias).detach().reshape(-1, 4)
    torch.testing.assert_close(weight.grad, grad_y.mT @ (x.detach().reshape(-1, 6) @ q @ q.mT))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_training_linear_saves(exact: bool, dtype: torch.dtype) -> None:
    x, weight, bias, q, z, s = samples(True, exact)
    saved: list[tuple[tuple[int, ...], torch.dtype]] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append((tuple(tensor.shape), tensor.dtype))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        LASER.linear(x.to(dtype), weight.to(dtype), bias.to(dtype), q, z, s)
    kept = (2, 5, 6) if exact else (10, 3)
    assert {(kept, dtype), ((4, 6), dtype)} <= set(saved)
    assert (((6, 3), torch.float32) in saved) is not exact  # the basis serves Z alone
    assert ((10, 3) if exact else (2, 5, 6)) not in {shape for shape, _ in saved}


def test_only_the_gradients_that_are_wanted_are_made() -> None:
    x, weight, _, q, z, s = samples(False)
    LASER.linear(x, weight.requires_grad_(), None, q, z, s).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


def test_bases_and_measurements_are_constants_for_autograd() -> None:
    x = random(5, 6).requires_grad_()
    q, measured = site(x, basis(6, 3), 0.9)
    assert not q.requires_grad
    assert not measured.requires_grad


def test_bfloat16_gradients_are_near_those_of_float32() -> None:
    x, weight, bias, _, _, s = samples(False)
    full = basis(6, 6)
    z = coefficients(x, full)
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        parameter = weight.detach().clone().to(dtype).requires_grad_()
        LASER.linear(x.to(dtype), parameter, bias.to(dtype), full, z, s).sum().backward()
        assert parameter.grad is not None
        assert parameter.grad.dtype == dtype
        grads.append(parameter.grad.float())
    torch.testing.assert_close(grads[1], grads[0], atol=0.1, rtol=0.05)


def test_autocast_does_not_reach_inside() -> None:
    x, q = low_rank(30, 12, 3), basis(12, 4)
    expected = site(x, q, 0.99)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(site(x, q, 0.99), expected)


def test_operators_can_be_exported_with_a_dynamic_batch() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor, q: Tensor, sketch: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            q, z, measured = LASER.reset(x, *LASER.track(x, q, at), sketch, at)
            folded = LASER.fold(w, q, q.mT @ w.mT, measured)
            return LASER.folded_linear(x, w, None, folded, z, measured), measured

    arguments = (random(2, 5, 6), random(4, 6), basis(6, 3), subspace.sketch(6, 3, 0), torch.tensor(0.9))
    dynamic = ({0: torch.export.Dim("batch")}, None, None, None, None)
    program = torch.export.export(Model(), arguments, dynamic_shapes=dynamic, strict=False)
    wider = (random(7, 5, 6, seed=4), *arguments[1:])
    torch.testing.assert_close(program.module()(*wider), Model()(*wider))
