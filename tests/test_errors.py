from __future__ import annotations

import inspect

import pytest

from laser_fx import errors
from laser_fx.errors import LaserError

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, LaserError)]


def test_a_message_says_what_where_and_what_to_change() -> None:
    error = LaserError("it broke", where="here", fix="mend it")
    assert str(error) == "it broke\n  where: here\n  fix: mend it"
    assert (error.what, error.where, error.fix) == ("it broke", "here", "mend it")
    assert str(LaserError("it broke")) == "it broke"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_caught_as_a_laser_error_and_as_pythons_own(kind: type[LaserError]) -> None:
    error = kind("it broke", where="here")
    assert isinstance(error, LaserError)
    assert kind is LaserError or len(kind.__bases__) == 2
    assert str(error).startswith("it broke\n")


def test_all_kinds_are_public() -> None:
    assert {kind.__name__ for kind in KINDS} | {"NoLoopWarning"} == set(errors.__all__)
