from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from laser_fx.memory.measure import flops, saved_bytes

FLOAT = 4


def test_a_tensor_saved_twice_counts_once() -> None:
    x = torch.randn(4, 8)
    a, b = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))
    assert saved_bytes(lambda: x @ a + x @ b) == x.numel() * FLOAT


def test_views_of_one_storage_count_once() -> None:
    x = torch.randn(4, 8)
    weight = nn.Parameter(torch.randn(8, 8))
    assert saved_bytes(lambda: x @ weight + x.view(2, 16).view(4, 8) @ weight) == x.numel() * FLOAT


def test_a_slice_costs_the_storage_that_it_keeps_alive() -> None:
    x = torch.randn(100, 8)
    weight = nn.Parameter(torch.randn(8, 8))
    assert saved_bytes(lambda: x[:1] @ weight) == x.numel() * FLOAT


def test_weights_and_their_views_are_not_counted() -> None:
    linear = nn.Linear(8, 8)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(lambda: linear(x)) == x.numel() * FLOAT
    assert saved_bytes(lambda: x @ linear.weight.t()) == x.numel() * FLOAT


def test_excluded_tensors_are_not_counted() -> None:
    x = torch.randn(4, 8)
    weight = nn.Parameter(torch.randn(8, 8))
    assert saved_bytes(lambda: x @ weight, exclude=[x]) == 0


def test_what_is_freed_before_the_call_returns_is_not_counted() -> None:
    x = torch.randn(4, 8)
    weight = nn.Parameter(torch.randn(8, 8))

    def two_steps() -> Tensor:
        first = (x @ weight).exp()
        return first.detach() @ weight

    assert saved_bytes(two_steps) == x.numel() * FLOAT


def test_intermediates_do_not_share_an_address() -> None:
    weight = nn.Parameter(torch.randn(8, 8))

    def many() -> Tensor:
        return torch.stack([torch.randn(4, 8) @ weight for _ in range(50)]).sum()

    assert saved_bytes(many) == 50 * 4 * 8 * FLOAT


def test_nothing_is_held_without_gradients() -> None:
    linear = nn.Linear(8, 8)
    with torch.no_grad():
        assert saved_bytes(lambda: linear(torch.randn(4, 8))) == 0


def test_backward_works_on_what_was_measured() -> None:
    linear = nn.Linear(8, 8)
    outputs: list[Tensor] = []
    saved_bytes(lambda: outputs.append(linear(torch.ones(4, 8)).exp().sum()) or outputs[0])
    outputs[0].backward()
    assert linear.weight.grad is not None


def test_the_low_rank_linear_holds_coefficients_and_basis() -> None:
    x, weight = torch.randn(64, 16), nn.Parameter(torch.randn(8, 16))
    q = torch.linalg.qr(torch.randn(16, 2)).Q.contiguous()
    held = saved_bytes(lambda: torch.ops.laser.linear(x, weight, None, q, x @ q, torch.zeros(5)))
    assert held == (64 * 2 + 16 * 2) * FLOAT


def test_flops_of_a_linear() -> None:
    linear = nn.Linear(16, 8)
    assert flops(lambda: linear(torch.randn(4, 16))) == 2 * 4 * 16 * 8


def test_flops_of_attention_are_counted_on_the_cpu() -> None:
    q = torch.randn(2, 3, 10, 8)
    with torch.no_grad():
        assert flops(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * (2 * 2 * 3 * 10 * 10 * 8)


N, D, K, OUT = 64, 16, 2, 8


@pytest.fixture
def site() -> tuple[Tensor, Tensor, Tensor]:
    """X of rank K, a weight, and the basis that holds all of X."""
    x = torch.randn(N, K) @ torch.randn(K, D)
    return x, torch.randn(OUT, D), torch.linalg.svd(x, full_matrices=False).Vh[:K].mT.contiguous()


@pytest.mark.parametrize(("exact", "expected"), [(0.0, 2 * N * K * OUT), (1.0, 2 * N * D * OUT)])
def test_flops_of_a_folded_linear(site: tuple[Tensor, Tensor, Tensor], exact: float, expected: int) -> None:
    x, weight, q = site
    stats, folded = torch.tensor([1.0, K, 0.0, 0.0, exact]), (weight @ q).mT
    assert (
        flops(lambda: torch.ops.laser.folded_linear(x, weight, None, folded, x @ q, stats)) == expected + 2 * N * D * K
    )


@pytest.mark.parametrize(("tracked", "expected"), [(0.0, 0), (1.0, 2 * OUT * D * K)])
def test_flops_of_folding_a_weight(site: tuple[Tensor, Tensor, Tensor], tracked: float, expected: int) -> None:
    _, weight, q = site
    stats = torch.tensor([1.0, K, tracked, 0.0, 0.0])
    assert flops(lambda: torch.ops.laser.fold(weight, q, torch.zeros(K, OUT), stats)) == expected


@pytest.mark.parametrize("exact", [0.0, 1.0])
def test_flops_of_a_training_linear_are_those_of_a_linear(site: tuple[Tensor, Tensor, Tensor], exact: float) -> None:
    x, weight, q = site
    stats, z = torch.tensor([1.0, K, 0.0, 0.0, exact]), x @ q
    assert flops(lambda: torch.ops.laser.linear(x, weight, None, q, z, stats)) == 2 * N * D * OUT


def test_a_basis_that_is_kept_costs_less_than_one_that_is_tracked(site: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, q = site
    other = torch.eye(D)[:, :K].contiguous()
    kept, tracked = (flops(lambda b=b: torch.ops.laser.track(x, b, torch.tensor(0.99))) for b in (q, other))
    assert kept == 2 * N * D * K
    # Two more projections, Xᵀ(XQ) among them; the QR, and the look whether its columns are orthonormal.
    assert tracked == kept + 4 * N * D * K + 4 * D * K * K + 2 * D * K * K


def test_a_reset_costs_two_power_iterations(site: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, q = site
    sketch, flag, threshold, z = torch.randn(D, K), torch.tensor(1.0), torch.tensor(0.99), x @ q
    kept, reset = (
        flops(lambda f=f: torch.ops.laser.reset(x, q, z, torch.tensor(f), flag, sketch, threshold)) for f in (1.0, 0.0)
    )
    assert kept == 0
    assert reset == 2 * (4 * N * D * K + 4 * D * K * K) + 2 * N * D * K + 2 * D * K * K
