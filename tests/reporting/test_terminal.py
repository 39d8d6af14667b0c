from __future__ import annotations

import io
import math

import pytest

from laser_fx.reporting.spark import BARS, bars, worst_of
from laser_fx.reporting.terminal import console, spelled


def test_what_an_encoding_has_stays() -> None:
    assert spelled("3 × 4 → 5", "utf-8") == "3 × 4 → 5"
    assert spelled("3 × 4 → 5", "latin-1") == "3 × 4 > 5"


@pytest.mark.parametrize("text", ["3 × 4 → 5 ⊃ 6", "▁▂▃▄▅▆▇█", "日本語", "✓ ✗ λ"])
def test_a_spelling_is_as_long_as_the_text(text: str) -> None:
    assert len(spelled(text, "ascii").encode("ascii")) == len(text)


def test_bars_are_told_apart_in_ascii() -> None:
    assert spelled(BARS, "ascii") == ".:-=+*#@"


def test_the_highest_bar_is_the_highest_value() -> None:
    assert bars([0, 3.4, 6.9, 8]) == "▁▄▇█"
    assert bars([5, 10], low=5, high=10) == "▁█"
    assert bars([-1, 99], high=8) == "▁█"
    assert bars([math.nan, 0.0]) == "?▁"
    assert bars([]) == ""


@pytest.mark.parametrize(("count", "at_most"), [(1, 5), (5, 5), (6, 5), (500, 24)])
def test_no_more_bars_than_there_is_room_and_none_hides_the_largest(count: int, at_most: int) -> None:
    values = [float(step % 7) for step in range(count)]
    drawn = worst_of(values, at_most)
    assert len(drawn) <= at_most
    assert max(drawn) == max(values)


def test_a_nan_stands_out() -> None:
    assert math.isnan(worst_of([1.0, math.nan, 2.0], 1)[0])


def test_a_plain_console_has_no_colour_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    console(file, 40, plain=True).print("[red]hot[/red]", style="bold")
    assert file.getvalue() == "hot\n"
