from __future__ import annotations

import pytest
import torch

import laser_fx
from laser_fx.errors import OptionError
from laser_fx.reporting.instruments.choose import DEFAULT, MEASURES, chosen
from tests.small import Contractive


def test_names_come_in_the_order_of_measuring() -> None:
    assert chosen(reversed(MEASURES)) == MEASURES == chosen("all")
    assert chosen("picture") == ("picture",)
    assert chosen(()) == ()
    assert set(DEFAULT) < set(MEASURES)


@pytest.mark.parametrize("measure", ["pictures", ("picture", "spectres"), [3]])
def test_an_unknown_name_is_refused_before_anything_is_compiled(measure: object) -> None:
    with pytest.raises(OptionError, match=r"measure has"):
        laser_fx.inspect(Contractive(), torch.randn(4, 32), measure=measure)  # type: ignore[arg-type]
