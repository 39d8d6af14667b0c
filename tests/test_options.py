from __future__ import annotations

from typing import Any

import pytest

from laser_fx.errors import LaserError, OptionError
from laser_fx.options import Options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forward", "fast"),
        ("memory", "most"),
        ("memory", 0.0),
        ("memory", 1.5),
        ("memory", float("nan")),
        ("memory", True),
        ("fidelity", 0.0),
        ("fidelity", 1.2),
        ("fidelity", float("nan")),
        ("fidelity", "0.9"),
        ("fidelity", True),
        ("rank", 0),
        ("rank", 2.5),
        ("rank", True),
        ("min_trip", 1),
        ("min_trip", None),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} is {value!r}") as raised:
        Options(**{name: value})
    assert raised.value.where == f"Options.{name}"
    assert str(raised.value.fix).startswith("choose")
    assert isinstance(raised.value, (LaserError, ValueError))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("approximate", {"approximate": True, "memory": None}),
        ("approximate", {"approximate": True, "memory": "laser"}),
        ("codecs", {"approximate": True, "memory": "min", "codecs": ()}),
        ("codecs", {"codecs": ["int8", []]}),
        ("tracking", {"tracking": "segment", "memory": "lean"}),
        ("tracking", {"tracking": "position", "memory": "min", "approximate": True}),
        ("centre", {"centre": True}),
    ],
)
def test_what_would_be_without_effect_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as raised:
        Options(**options)
    assert raised.value.where == f"Options.{name}"


def test_bases_may_be_kept_in_plans_of_low_rank() -> None:
    assert Options(memory="lean", approximate=True, codecs=("lowrank",), tracking="segment", centre=True).centre


def test_the_edges_are_allowed() -> None:
    assert Options(fidelity=1, rank=1, min_trip=2).fidelity == 1
    assert Options(memory=None).memory is None
    assert Options(memory="lean").memory == "lean"
    assert Options(memory=1.0).memory == 1.0


def test_exact_changes_no_number_and_takes_other_options() -> None:
    assert Options.exact() == Options(forward="exact", memory=None)
    assert Options.exact(min_trip=3).min_trip == 3
    assert Options.exact(memory="laser").memory == "laser"


def test_options_are_frozen_and_hashable() -> None:
    with pytest.raises(AttributeError):
        Options().rank = 3  # type: ignore[misc]
    assert len({Options(), Options(), Options(rank=3)}) == 2
