"""A tracked basis keeps its fidelity at every step, follows what turns slowly, and says when it cannot."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laser_fx import subspace
from laser_fx.errors import NonFiniteError, OptionError
from laser_fx.memory.bases import TrackedBasis
from laser_fx.memory.codecs import rank_within
from laser_fx.memory.few_bits import Int8
from laser_fx.memory.joint import Form, form_of

COMMON = settings(max_examples=25)
SEEDS = st.integers(0, 2**31)
D, N, STEPS = 32, 60, 4


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def activation(directions: Tensor, seed: int, noise: float = 0.0) -> Tensor:
    """(N, D) of the span of the columns, which fall off in energy, and noise."""
    falling = torch.linspace(1.0, 0.3, directions.shape[1])
    return numbers(N, directions.shape[1], seed=seed) * falling @ directions.mT + noise * numbers(N, D, seed=seed + 1)


def directions(rank: int, seed: int) -> Tensor:
    return subspace.orthonormalise(numbers(D, rank, seed=seed))


def run(basis: TrackedBasis, call: Sequence[Tensor]) -> None:
    for x in call:
        basis.encode(x)
    basis.finish()


def fidelity_of(x: Tensor, decoded: Tensor, mean: Tensor | None = None) -> float:
    lost = (x - decoded).square().sum()
    return float(1 - lost / (x if mean is None else x - mean).square().sum())


def decoded(basis: TrackedBasis, x: Tensor) -> Tensor:
    codec, parts = basis.encode(x)
    if codec is None:
        (same,) = parts
        return same
    form = form_of(x, False)
    assert isinstance(form, Form)
    return codec.decode(parts, form)


@COMMON
@given(
    st.sampled_from([0.9, 0.99, 0.999]), st.sampled_from([None, 3, 12]), st.booleans(), st.integers(1, 3), SEEDS,
    st.floats(0, 0.5),
)  # fmt: skip
def test_no_step_is_below_the_fidelity(
    fidelity: float, rank: int | None, centre: bool, every: int, seed: int, noise: float
) -> None:
    basis = TrackedBasis("site", D, fidelity=fidelity, rank=rank, centre=centre, every=every)
    for call in range(3):
        for step in range(STEPS):
            x = activation(directions(5, seed + call + step), seed + 7 * step, noise) + 2.0 * centre
            codec, parts = basis.encode(x)
            record = basis.steps[-1]
            assert record.exact == (codec is None) == (record.fidelity < fidelity)
            if codec is None:
                assert parts[0] is x
                continue
            form = form_of(x, False)
            assert isinstance(form, Form)
            assert codec.mean is None or centre
            assert fidelity_of(x, codec.decode(parts, form), codec.mean) >= fidelity - 2e-6
            assert record.rank <= codec.q.shape[1]
            assert subspace.orthonormality_error(codec.q) <= 1e-5
        assert len(basis.steps) == STEPS
        basis.finish()


def turning(call: int, step: int) -> Tensor:
    """A subspace that differs by step, and turns a little from call to call."""
    start, towards = directions(12, 1)[:, :6], directions(12, 1)[:, 6:]
    angle = torch.tensor(0.3 * step + 0.01 * call)
    return start * angle.cos() + towards * angle.sin()


def calls(count: int) -> list[list[Tensor]]:
    return [
        [activation(turning(call, step), seed=10 * call + step, noise=0.002) for step in range(STEPS)]
        for call in range(count)
    ]


def test_a_pooled_basis_follows_a_loop_that_one_of_the_last_step_does_not() -> None:
    pooled, resets, last_resets = TrackedBasis("site", D, fidelity=0.99), 0, 0
    q = torch.zeros(D, 16)
    for number, call in enumerate(calls(10)):
        run(pooled, call)
        resets += sum(step.reset for step in pooled.steps) if number >= 2 else 0
        for x in call:
            if subspace.fidelity(x, q) < 0.99:
                last_resets += number >= 2
                q = subspace.range_finder(x, subspace.sketch(D, 7, "site"))
            else:
                q = subspace.track(x, q)
    assert resets <= 2
    assert last_resets >= 16


def test_tracking_now_and_then_is_enough_while_there_is_room() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99, every=4)
    still = [[activation(turning(0, step), seed=step, noise=0.002) for step in range(STEPS)]] * 12
    kept = []
    for call in still:
        run(basis, call)
        kept.append(basis.q)
    assert basis.reset_rate == 0
    unchanged = [after is before for before, after in itertools.pairwise(kept[4:])]
    assert sum(unchanged) >= 5
    assert not all(unchanged)


def test_a_step_is_tracked_before_it_is_reset_and_the_basis_of_the_call_stays() -> None:
    basis, usual = TrackedBasis("site", D, fidelity=0.99), activation(directions(4, 1), 1)
    run(basis, [usual, usual])
    turned = activation(directions(4, 1) + 0.3 * directions(4, 2), 1)
    shared = [codec.q for codec, _ in map(basis.encode, [usual, turned, usual]) if codec is not None]
    assert [(step.tracked, step.reset) for step in basis.steps] == [(False, False), (True, False), (False, False)]
    assert shared[0] is shared[2] is basis.q
    assert shared[1] is not basis.q
    assert (basis.renewal_rate, basis.reset_rate) == (pytest.approx(1 / 3), 0.0)


def test_a_fresh_basis_serves_the_steps_that_follow() -> None:
    basis, x = TrackedBasis("site", D, fidelity=0.99), activation(directions(4, 1), 1)
    (first, _), (second, _) = basis.encode(x), basis.encode(x)
    assert first is not None
    assert second is not None
    assert first.q is second.q
    assert [step.reset for step in basis.steps] == [True, False]


def test_calls_that_take_turns_share_a_basis() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99)
    kinds = [activation(directions(4, 1), 1), activation(directions(4, 2), 2)]
    rates = []
    for call in range(10):
        run(basis, [kinds[call % 2]])
        rates.append(basis.renewal_rate)
    assert not any(rates[4:])


def test_a_reset_in_a_call_without_tracking_tracks_from_there() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99, every=100)
    first, other = activation(directions(4, 1), 1), activation(directions(4, 2), 2)
    for _ in range(3):
        run(basis, [first])
    assert not basis.pressed
    before = basis.q
    run(basis, [first, other])
    assert basis.q is not before
    run(basis, [other])
    assert not basis.steps[0].reset


def test_the_rank_rises_and_falls_with_the_values() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99)
    ranks = []
    for rank in (3, 3, 12, 12, *[3] * 10):
        run(basis, [activation(directions(rank, rank), seed=step) for step in range(2)])
        ranks.append(basis.q.shape[1])
    assert ranks[1] <= 7
    assert 12 <= ranks[3] <= 20
    assert ranks[-1] <= 7


def test_the_rank_grows_where_the_fidelity_of_the_pool_is_just_met() -> None:
    basis = TrackedBasis("site", D, fidelity=0.999)
    run(basis, [activation(directions(3, 0), 1)])
    before = basis.q.shape[1]
    run(basis, [activation(directions(before, 0), 1)])
    run(basis, [activation(directions(before, 0), 2)])
    assert basis.q.shape[1] > before
    assert subspace.orthonormality_error(basis.q) <= 1e-5


def test_a_fixed_rank_stays_and_a_largest_one_is_kept_to() -> None:
    fixed, bounded = TrackedBasis("site", D, rank=5), TrackedBasis("site", D, most=6)
    for call in range(3):
        for basis in (fixed, bounded):
            run(basis, [activation(directions(20, call), call)])
            assert all(step.exact for step in basis.steps)
        assert fixed.q.shape == (D, 5)
        assert bounded.q.shape[1] <= 6


def test_columns_are_by_energy() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99)
    call = [activation(directions(6, 3), seed, noise=0.01) for seed in range(3)]
    run(basis, call)
    run(basis, call)
    energies = sum(subspace.column_energies(x, basis.q) for x in call)
    assert isinstance(energies, Tensor)
    assert torch.equal(energies.sort(descending=True).values, energies)


def test_what_the_mean_hides_is_seen_centred() -> None:
    mean = 30.0 * directions(1, 5)[:, 0]
    x = activation(directions(14, 6), 1) + mean
    plain, centred = TrackedBasis("site", D, fidelity=0.99), TrackedBasis("site", D, fidelity=0.99, centre=True)
    for basis in (plain, centred):
        run(basis, [x, x])
        run(basis, [x, x])
        assert basis.reset_rate == 0
    assert (plain.centred, centred.centred) == (False, True)
    assert centred.mean is not None
    torch.testing.assert_close(centred.mean, x.mean(0), atol=1e-4, rtol=1e-4)
    around = x - x.mean(0)
    assert fidelity_of(around, decoded(centred, x) - x.mean(0)) >= 0.99
    assert fidelity_of(around, decoded(plain, x) - x.mean(0)) < 0.9


def test_a_mean_that_moved_does_not_break_the_bound() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99, centre=True)
    for call in range(6):
        run(basis, [activation(directions(4, 6), call) + 3.0 * call])
        assert not any(step.exact for step in basis.steps)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_and_changes_no_basis(bad: float) -> None:
    basis, x = TrackedBasis("loop_0:mlp.down", D), activation(directions(3, 0), 0)
    run(basis, [x])
    before = basis.q
    basis.encode(x)
    broken = x.clone()
    broken[3, 4] = bad
    with pytest.raises(NonFiniteError, match=r"at step 1(.|\n)*loop_0:mlp.down, step 1"):
        basis.encode(broken)
    basis.finish()
    assert basis.q is before
    run(basis, [x])
    assert basis.reset_rate == 0


def test_nothing_is_written_into_what_a_step_keeps() -> None:
    basis, kept = TrackedBasis("site", D, fidelity=0.99, centre=True), []
    for call in calls(4):
        for x in call:
            kept.extend([(part, part.clone(), part._version) for part in basis.encode(x)[1]])
        basis.finish()
        basis.load_state_dict(copy.deepcopy(basis.state_dict()))
    assert all(torch.equal(part, copied) and part._version == version for part, copied, version in kept)


def test_the_parts_hold_no_activation_and_want_no_gradient() -> None:
    basis, x = TrackedBasis("site", D, fidelity=0.9), activation(directions(3, 0), 0).requires_grad_()
    codec, parts = basis.encode(x)
    assert codec is not None
    assert not any(part.requires_grad for part in parts)
    assert {part.untyped_storage().data_ptr() for part in parts}.isdisjoint({x.untyped_storage().data_ptr()})


@pytest.mark.parametrize("centre", [False, True])
def test_a_basis_resumes_from_its_state_dict(centre: bool) -> None:
    def new() -> TrackedBasis:
        return TrackedBasis("site", D, fidelity=0.99, centre=centre, every=2)

    basis, resumed = new(), new()
    for call in calls(3):
        run(basis, call)
    resumed.load_state_dict(basis.state_dict())
    assert resumed.q.shape == basis.q.shape != new().q.shape
    for call in calls(6)[3:]:
        run(basis, call)
        run(resumed, call)
        assert resumed.steps == basis.steps
        assert torch.equal(resumed.q, basis.q)


def test_a_copy_goes_its_own_way() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99)
    first, second = calls(2)
    run(basis, first)
    before = basis.q.clone()
    basis.encode(second[0])
    twin = copy.deepcopy(basis)
    for x in second[1:]:
        twin.encode(x)
    twin.finish()
    assert torch.equal(basis.q, before)
    run(basis, second[1:])
    assert torch.equal(basis.q, twin.q)


def test_a_basis_that_was_damaged_is_not_trusted() -> None:
    basis, x = TrackedBasis("site", D, fidelity=0.99), activation(directions(3, 0), 0)
    run(basis, [x])
    basis.q = 1.01 * basis.q
    run(basis, [x])
    assert basis.steps[0].reset


def test_the_same_calls_make_the_same_basis() -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(len(made))
        basis = TrackedBasis("site", D, fidelity=0.99)
        for call in calls(3):
            run(basis, call)
        made.append(basis.q)
    assert torch.equal(*made)


def alarms(caplog: pytest.LogCaptureFixture, basis: TrackedBasis, sequence: Sequence[Sequence[Tensor]]) -> list[Any]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "laser_fx"):
        for call in sequence:
            run(basis, call)
    return [record for record in caplog.records if record.name == "laser_fx"]


def test_a_basis_that_does_not_keep_up_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    wild = [[activation(directions(9, 9 * c + s), c + s) for s in range(STEPS)] for c in range(4)]
    basis = TrackedBasis("loop_0:mlp.down", D, fidelity=0.99, rank=3)
    (record,) = alarms(caplog, basis, wild)
    assert (record.site, record.renewal_rate, record.steps) == ("loop_0:mlp.down", 1.0, STEPS)
    assert not alarms(caplog, TrackedBasis("site", D, fidelity=0.99, rank=3, alarm=1.0), wild)


def test_a_first_call_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    basis, x = TrackedBasis("site", D, fidelity=0.99), activation(directions(3, 0), 0)
    assert not alarms(caplog, basis, [[x], [x], [x]])
    assert basis.reset_rate == 0


def test_zeros_and_no_rows_are_kept_without_a_reset() -> None:
    for x in (torch.zeros(5, D), torch.zeros(0, D)):
        basis = TrackedBasis("site", D, centre=True)
        assert torch.equal(decoded(basis, x), x)
        basis.finish()
        assert basis.reset_rate == 0
        assert basis.mean is not None
        assert basis.mean.isfinite().all()


def test_a_call_without_steps_changes_nothing() -> None:
    basis = TrackedBasis("site", D)
    basis.finish()
    assert (int(basis.calls), basis.q.shape[1], basis.reset_rate) == (0, 0, 0.0)


def test_bfloat16_is_measured_in_float32_and_stored_as_it_is() -> None:
    basis = TrackedBasis("site", D, fidelity=0.99)
    x = activation(directions(3, 0), 0).bfloat16().view(6, 10, D)
    codec, parts = basis.encode(x)
    assert codec is not None
    assert parts[0].dtype == torch.bfloat16
    assert parts[1].dtype == torch.float32
    assert fidelity_of(x.float(), decoded(basis, x).float()) >= 0.989


def test_coefficients_are_stored_by_the_inner_codec() -> None:
    basis, x = TrackedBasis("site", D, fidelity=0.99, inner=Int8()), activation(directions(3, 0), 0)
    codec, parts = basis.encode(x)
    assert codec is not None
    assert codec.name == "lowrank_int8"
    assert parts[0].dtype == torch.int8
    assert fidelity_of(x, decoded(basis, x)) >= 0.989


@COMMON
@given(st.integers(1, 64), st.integers(1, 200), st.integers(1, 8), st.integers(0, 200_000), st.booleans())
def test_the_largest_rank_that_a_budget_allows(features: int, rows: int, steps: int, budget: int, coded: bool) -> None:
    inner, form = Int8() if coded else None, form_of(torch.empty(rows, features), False)
    assert isinstance(form, Form)
    rank = rank_within(budget, form, steps, inner)

    def bytes_of(columns: int) -> int:
        z = form_of(torch.empty(rows, columns), False)
        each = rows * columns * 4 if inner is None else inner.bytes(z)
        return steps * each + 4 * features * columns

    assert rank <= features
    assert bytes_of(rank) <= budget
    assert rank == features or bytes_of(rank + 1) > budget


@pytest.mark.parametrize(
    "arguments",
    [{"fidelity": 0.0}, {"fidelity": 1.1}, {"rank": 0}, {"rank": 33}, {"most": 0}, {"every": 0}, {"alarm": 2.0}],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(OptionError, match=name):
        TrackedBasis("site", D, **arguments)
