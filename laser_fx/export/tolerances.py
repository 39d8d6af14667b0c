"""How far a file may be from its program, by dtype: stated here and nowhere else.

Values are compared relative to the largest of their output. Rounding to a dtype of unit roundoff u leaves some u in
each operator, and a recursion magnifies them. Among the families of the tests, the worst file of float16 (u = 2⁻¹¹) was
11 u away from its program, and rounding had cost no program more than 11 u, be it of float16 or of bfloat16 (u = 2⁻⁸).
So 20 u are allowed, and twice what the dtype costs the program itself where that is more. Run in float32, a file of 16
bits still has its constants rounded to them: 4 u. In double precision some constants and attributes are float32
(u = 2⁻²⁴): 2 u. float32 has 1,700 u, since a trained model may be near to chaos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["FLOAT32", "Tolerance", "tolerance_in_float32", "tolerance_of"]


@dataclass(frozen=True)
class Tolerance:
    """What rounding excuses.

    Args:
        exact: difference of a value, relative to the largest value of its output.
        tracked: the same where a tracked basis is used: float32 leaves the directions of a basis that have the least
            energy to chance.
        first_margin: two runs may decide differently where the fidelity is as near to the threshold as this.
        later_margin: the same after the first step of a site, whose values differ as ``tracked`` says.
        whole_numbers: share of the entries of a whole or truth value that may differ; an ``argmax`` of rounded values
            has ties.
    """

    exact: float
    tracked: float
    first_margin: float
    later_margin: float
    whole_numbers: float = 0.0


FLOAT32 = Tolerance(exact=1e-4, tracked=5e-3, first_margin=1e-5, later_margin=5e-3)
_AS_IT_IS = {
    "float64": Tolerance(exact=1e-7, tracked=5e-3, first_margin=1e-5, later_margin=5e-3),
    "float32": FLOAT32,
    "float16": Tolerance(exact=1e-2, tracked=1e-2, first_margin=1e-2, later_margin=1e-2, whole_numbers=0.02),
    "bfloat16": Tolerance(exact=8e-2, tracked=8e-2, first_margin=8e-2, later_margin=8e-2, whole_numbers=0.1),
}
_IN_FLOAT32 = {
    "float64": FLOAT32,
    "float32": FLOAT32,
    "float16": Tolerance(exact=2e-3, tracked=5e-3, first_margin=2e-3, later_margin=5e-3, whole_numbers=0.02),
    "bfloat16": Tolerance(exact=1.6e-2, tracked=1.6e-2, first_margin=1.6e-2, later_margin=1.6e-2, whole_numbers=0.1),
}


def tolerance_of(dtypes: Iterable[str]) -> Tolerance:
    """That of a file which computes in these dtypes, the coarsest deciding; names of other dtypes do not count.

    >>> tolerance_of(["float32", "int64", "float16"]).exact
    0.01
    >>> tolerance_of(["int64"]) == FLOAT32
    True
    """
    return _AS_IT_IS[_coarsest(dtypes)]


def tolerance_in_float32(dtypes: Iterable[str]) -> Tolerance:
    """That of a file which has these dtypes and is run in float32 instead.

    >>> tolerance_in_float32(["float16"]).exact
    0.002
    """
    return _IN_FLOAT32[_coarsest(dtypes)]


def _coarsest(dtypes: Iterable[str]) -> str:
    known = list(_AS_IT_IS)  # finest first
    found = [known.index(name) for name in dtypes if name in known]
    return known[max(found)] if found else "float32"
