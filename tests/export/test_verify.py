"""What the comparison of a file with its program forgives, and what it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from laser_fx.errors import VerificationError
from laser_fx.export.compare import Twins, compare
from laser_fx.export.metadata import FileMetadata

PLAIN = FileMetadata(form="rolled", inputs=(), outputs=(("y", "y"),))
FROZEN = FileMetadata(form="rolled", inputs=(), outputs=(("y", "y"),), records=(("loop_0:up", "s"),))
TRACKED = replace(FROZEN, fidelity="fidelity")
Y = np.array([1.0, -4.0], np.float32)


def check(metadata: FileMetadata, expected: dict[str, Any], actual: dict[str, Any], at: float = 0.9) -> float | None:
    return compare(expected, actual, metadata, at, where="as captured")


def row(fidelity: float, *decisions: float) -> list[float]:
    return [fidelity, 3.0, *(decisions or (0.0, 0.0, 0.0))]


def records(*rows: list[float]) -> np.ndarray[Any, Any]:
    return np.array(rows, np.float32)


def test_the_error_is_relative_to_the_largest_value() -> None:
    assert check(PLAIN, {"y": Y}, {"y": Y + np.float32(4e-5)}) == pytest.approx(1e-5, rel=0.1)


def test_values_beyond_the_tolerance_are_named() -> None:
    with pytest.raises(VerificationError, match=r"'y' differs by 1\.0e-03"):
        check(PLAIN, {"y": Y}, {"y": Y + np.float32(4e-3)})


def test_what_rounding_leaves_of_larger_values_is_no_difference() -> None:
    assert check(PLAIN, {"y": Y * np.float32(1e-9)}, {"y": -Y * np.float32(1e-9)}) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_finite_on_one_side_only_is_an_error(bad: float) -> None:
    with pytest.raises(VerificationError):
        check(PLAIN, {"y": Y}, {"y": np.array([1.0, bad], np.float32)})


def test_values_that_are_no_numbers_on_both_sides_agree() -> None:
    y = np.array([1.0, np.nan], np.float32)
    assert check(PLAIN, {"y": y}, {"y": y}) == 0.0


def test_whole_numbers_and_truth_values_must_be_equal() -> None:
    assert check(PLAIN, {"y": np.array([1, 2])}, {"y": np.array([1, 2])}) == 0.0
    with pytest.raises(VerificationError, match="1 entries"):
        check(PLAIN, {"y": np.array([True, False])}, {"y": np.array([True, True])})


def test_shapes_must_be_equal() -> None:
    with pytest.raises(VerificationError, match="shape"):
        check(PLAIN, {"y": Y}, {"y": Y[None]})


def test_a_decision_far_from_the_threshold_must_agree() -> None:
    ours, theirs = records(row(0.95)), records(row(0.99, 1, 0, 0))
    with pytest.raises(VerificationError, match="step 0 decided") as caught:
        check(TRACKED, {"y": Y, "s": ours}, {"y": Y, "s": theirs})
    assert "loop_0:up" in str(caught.value)


def test_whether_a_basis_of_chance_is_reset_is_chance() -> None:
    narrow, wide = [0.99, 1.0, 1.0, 0.0, 0.0], [0.99, 3.0, 1.0, 0.0, 0.0]
    reset = [0.99, 3.0, 1.0, 1.0, 0.0]
    assert check(TRACKED, {"y": Y, "s": records(narrow, wide)}, {"y": Y, "s": records(narrow, reset)}) is None
    with pytest.raises(VerificationError, match="step 1 decided"):
        check(TRACKED, {"y": Y, "s": records(wide, wide)}, {"y": Y, "s": records(wide, reset)})
    with pytest.raises(VerificationError, match="step 0 decided"):
        check(TRACKED, {"y": Y, "s": records(wide)}, {"y": Y, "s": records(reset)})


def test_a_decision_that_rounding_turns_is_excused() -> None:
    ours, theirs = {"y": Y, "s": records(row(0.95))}, {"y": Y, "s": records(row(0.99, 1, 0, 0))}
    twins = Twins().by_rounding(theirs, ours, TRACKED)
    assert twins.turned
    assert compare(ours, theirs, TRACKED, 0.9, where="as captured", twins=twins) is None
    assert not Twins().by_rounding(ours, ours, TRACKED).turned


def test_a_decision_at_the_threshold_is_excused_with_all_that_follows() -> None:
    ours = records(row(0.95), row(0.900001), row(0.95))
    theirs = records(row(0.95), row(0.97, 1, 0, 0), row(0.99, 1, 1, 0))
    assert check(TRACKED, {"y": Y, "s": ours}, {"y": Y + 1, "s": theirs}) is None


def test_a_fidelity_that_is_not_a_number_on_both_sides_agrees() -> None:
    broken = records(row(float("nan"), 1, 1, 1))
    assert check(TRACKED, {"y": Y, "s": broken}, {"y": Y, "s": broken}) == 0.0


def test_fixed_bases_decide_nothing_so_values_and_records_are_compared_as_of_an_exact_file() -> None:
    steps = records(row(0.5), row(0.7))
    assert check(FROZEN, {"y": Y, "s": steps}, {"y": Y, "s": steps}) == 0.0
    for name, other in (
        ("y", {"y": Y + np.float32(4e-3), "s": steps}),
        ("s", {"y": Y, "s": records(row(0.5), row(0.8))}),
    ):
        with pytest.raises(VerificationError, match=name):
            check(FROZEN, {"y": Y, "s": steps}, other)


def test_at_fidelity_one_values_are_compared_whatever_was_decided() -> None:
    ours, theirs = records(row(0.9999999, 1, 1, 1)), records(row(1.0))
    assert check(TRACKED, {"y": Y, "s": ours}, {"y": Y, "s": theirs}, at=1.0) == 0.0
    with pytest.raises(VerificationError):
        check(TRACKED, {"y": Y, "s": ours}, {"y": Y + np.float32(0.1), "s": theirs}, at=1.0)


def test_a_tracked_run_may_differ_by_more_than_an_exact_one() -> None:
    near, steps = Y + np.float32(4e-3), records(row(0.95))
    assert check(TRACKED, {"y": Y, "s": steps}, {"y": near, "s": steps}) == pytest.approx(1e-3, rel=0.1)
    with pytest.raises(VerificationError):
        check(TRACKED, {"y": Y, "s": steps}, {"y": near, "s": steps}, at=1.0)
