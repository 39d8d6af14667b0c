from __future__ import annotations

import pytest

from laser_fx.errors import InputError
from laser_fx.export.sizes import shape_at, symbols_of


def test_expressions_of_symbols_are_computed() -> None:
    shape = ["batch", 3, "2*batch + 1", "(batch - 1)//2"]
    assert symbols_of([shape, ["width"]]) == ("batch", "width")
    assert shape_at(shape, {"batch": 5}) == (5, 3, 11, 2)


@pytest.mark.parametrize(
    "size",
    [
        "width",
        "__import__('os').getcwd()",
        "batch.real",
        "batch**99",
        "1//(batch - 4)",
        "True",
        "(" * 90,
        "x" * 300,
        "",
    ],
)
def test_anything_else_is_refused_and_nothing_is_run(size: str) -> None:
    with pytest.raises(InputError, match="has no size"):
        shape_at([size], {"batch": 4})
