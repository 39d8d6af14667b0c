"""The names of what a report can measure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from laser_fx.errors import OptionError

__all__ = ["DEFAULT", "MEASURES", "OF_WEIGHTS", "Measure", "Measures", "chosen"]

Measure = Literal["picture", "spectra", "trajectories", "dynamics", "memory", "onnx"]
Measures = Iterable[Measure] | Literal["all"]

MEASURES: tuple[Measure, ...] = ("picture", "spectra", "trajectories", "dynamics", "memory", "onnx")
"""In the order in which they are measured."""
DEFAULT: tuple[Measure, ...] = ("picture", "trajectories")
"""What costs next to nothing: no more than a forward call or two."""

OF_WEIGHTS: tuple[Measure, ...] = ("spectra", "trajectories", "dynamics")
"""What depends on the weights, and so is worth measuring of an untrained control."""


def chosen(measure: Measures | str) -> tuple[Measure, ...]:
    """Names as a caller gives them, in order.

    Raises:
        OptionError: there is no such name.

    >>> chosen(("spectra", "picture")), chosen("all") == MEASURES
    (('picture', 'spectra'), True)
    """
    if measure == "all":
        return MEASURES
    if not isinstance(measure, Iterable):
        fix = "pass names, () for nothing more, or 'all'"
        raise OptionError(f"measure is a {type(measure).__name__}", where="measure", fix=fix)
    asked = (measure,) if isinstance(measure, str) else tuple(measure)
    if unknown := [name for name in asked if name not in MEASURES]:
        raise OptionError(
            f"measure has {unknown[0]!r}", where="measure", fix=f"choose of {', '.join(MEASURES)}, or 'all'"
        )
    return tuple(name for name in MEASURES if name in asked)
