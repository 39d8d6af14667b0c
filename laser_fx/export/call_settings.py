"""Numbers of a call that are no tensors of the model: depths and the fidelity, as a file takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from laser_fx.errors import InputError, OptionError
from laser_fx.export.metadata import Depth, FileMetadata
from laser_fx.export.schema import MAX_TRIPS

__all__ = ["depths_fed", "fidelity_fed"]


def depths_fed(metadata: FileMetadata, depth: int | Mapping[str, int] | None) -> dict[str, npt.NDArray[Any]]:
    """Trips by input; ``depth`` is one number, or numbers by loop.

    Raises:
        InputError: the file takes no depth, or several.
        OptionError: one that is out of its range.
    """
    if depth is None:
        return {}
    depths = {d.loop: d for d in metadata.depths}
    if not isinstance(depth, Mapping):
        if len(depths) != 1:
            known = ", ".join(depths) or "none"
            raise InputError(
                f"depth is one number, the file takes depths of: {known}",
                where="depth",
                fix="pass depth={'loop_0': 4}" if depths else "export with depth_inputs=True",
            )
        depth = dict.fromkeys(depths, depth)
    return {_depth(depths, loop).input: _trips(_depth(depths, loop), trips) for loop, trips in depth.items()}


def fidelity_fed(metadata: FileMetadata, fidelity: float | None) -> dict[str, npt.NDArray[Any]]:
    """The threshold by input.

    Raises:
        InputError: the file has none.
        OptionError: one that is out of its range.
    """
    if fidelity is None:
        return {}
    if type(fidelity) not in (int, float) or not 0.0 < fidelity <= 1.0:
        raise OptionError(f"fidelity is {fidelity!r}", where="fidelity", fix="choose a number in (0, 1]")
    step = metadata.step
    name = metadata.fidelity or (None if step is None else step.min_fidelity)
    if name is None:
        raise InputError(
            "the file tracks nothing: it has no fidelity",
            where="fidelity",
            fix="leave it out, or compile with Options(sites='all')",
        )
    return {name: np.array(fidelity, np.float32)}


def _depth(depths: Mapping[str, Depth], loop: str) -> Depth:
    if loop not in depths:
        known = ", ".join(repr(name) for name in depths) or "none"
        raise InputError(f"the depth of {loop!r} is not an input", where="depth", fix=f"choose among: {known}")
    return depths[loop]


def _trips(depth: Depth, trips: object) -> npt.NDArray[Any]:
    if not isinstance(trips, int | np.integer) or isinstance(trips, bool) or not 1 <= trips <= MAX_TRIPS:
        raise OptionError(
            f"depth is {trips!r}", where=depth.input, fix=f"choose a whole number from 1 to {MAX_TRIPS:,}"
        )
    if trips < depth.least:
        raise OptionError(
            f"depth is {trips}, but an output is that of step {depth.least}",
            where=depth.input,
            fix=f"choose at least {depth.least}",
        )
    return np.array(trips, np.int64)
