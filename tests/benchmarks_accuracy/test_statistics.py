"""The statistics of the accuracy study, against values that are known otherwise."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from benchmarks.accuracy.statistics import discordance, mean_interval, paired, pooled, wilson

# Twelve pairs, made up: tests below compare with scipy's t distribution, which `paired` does not call.
EAGER = [0.910, 0.934, 0.887, 0.921, 0.940, 0.899, 0.915, 0.928, 0.903, 0.931, 0.919, 0.908]
ARM = [0.912, 0.930, 0.890, 0.917, 0.938, 0.905, 0.914, 0.922, 0.907, 0.929, 0.921, 0.906]


def test_wilson_is_newcombes_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263 gives 0.2553 to 0.3662.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_a_share_of_all_or_none_has_an_interval_within_bounds() -> None:
    low, high = wilson(0, 2000)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert 0.0 < high < 0.003
    assert wilson(2000, 2000)[0] == pytest.approx(1.0 - high)


def test_the_mean_of_five_numbers_has_the_interval_of_the_t_table() -> None:
    # 1, 2, 3, 4, 5: mean 3, s = 1.5811, t(0.975, 4) = 2.7764.
    half = 2.7764 * 1.5811 / math.sqrt(5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-3)


def test_equal_values_have_no_spread_and_one_value_no_bound() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)
    assert mean_interval([0.5]) == (-math.inf, math.inf)


def test_tost_is_the_larger_of_two_one_sided_tests() -> None:
    differences = [a - b for a, b in zip(ARM, EAGER, strict=True)]
    n, mean = len(differences), sum(differences) / len(differences)
    error = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1) / n)
    low = stats.t.sf((mean + 0.005) / error, n - 1)
    high = stats.t.cdf((mean - 0.005) / error, n - 1)
    found = paired(ARM, EAGER, margin=0.005)
    assert found.tost == pytest.approx(max(low, high))
    assert found.mean == pytest.approx(mean)
    assert found.difference == pytest.approx(2 * stats.t.sf(abs(mean) / error, n - 1))


@pytest.mark.parametrize("margin", [0.0005, 0.001, 0.002, 0.003, 0.005])
def test_tost_passes_where_the_90_percent_interval_is_within_the_margin(margin: float) -> None:
    found = paired(ARM, EAGER, margin=margin)
    low, high = found.interval_90
    assert (found.tost < 0.05) == (-margin < low and high < margin)


def test_a_difference_beyond_the_margin_is_never_equivalent() -> None:
    worse = [value - 0.03 for value in ARM]
    found = paired(worse, EAGER)
    assert found.tost > 0.5
    assert found.difference < 0.001


def test_few_noisy_pairs_decide_nothing() -> None:
    found = paired([0.95, 0.85, 0.90, 0.99, 0.80], [0.85, 0.95, 0.92, 0.90, 0.88])
    assert found.tost > 0.05
    assert found.difference > 0.05


def test_equal_pairs_are_equivalent_without_a_spread() -> None:
    found = paired(EAGER, EAGER)
    assert (found.mean, found.deviation, found.tost, found.difference) == (0.0, 0.0, 0.0, 1.0)


def test_pairs_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no two pairs"):
        paired([0.9], [0.9])
    with pytest.raises(ValueError, match="no two pairs"):
        paired([0.9, 0.8, 0.7], [0.9, 0.8])


def test_mcnemar_is_the_binomial_test_of_the_discordant_puzzles() -> None:
    arm = [True] * 60 + [True] * 3 + [False] * 12 + [False] * 25
    eager = [True] * 60 + [False] * 3 + [True] * 12 + [False] * 25
    found = discordance(arm, eager)
    assert (found.only_eager, found.only_arm) == (12, 3)
    # Twice the lower tail of a fair coin: 2 · (1 + 15 + 105 + 455) / 2^15.
    assert found.p == pytest.approx(2 * (1 + 15 + 105 + 455) / 2**15)


def test_models_that_answer_alike_do_not_differ() -> None:
    assert discordance([True, False], [True, False]).p == 1.0


def test_answers_to_different_puzzles_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        discordance([True], [True, False])


def test_pooling_adds_up_the_discordant_puzzles_of_all_seeds() -> None:
    parts = [discordance([True, False, False], [False, True, True]), discordance([False], [True])]
    found = pooled(parts)
    assert (found.only_eager, found.only_arm) == (3, 1)
    assert found.p == pytest.approx(2 * (1 + 4) / 2**4)
