"""What a call feeds to a file that halts: the logit above which an example is done."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from laser_fx.errors import InputError, OptionError
from laser_fx.export.metadata import FileMetadata

__all__ = ["halting_feed"]

_LARGEST = float(np.finfo(np.float32).max)


def halting_feed(metadata: FileMetadata, halt: bool | float | None) -> dict[str, npt.NDArray[Any]]:
    """The input for a caller's ``halt``.

    Args:
        metadata: of the file.
        halt: a logit; ``None`` and ``True`` for the file's own; ``False`` for none that an example could reach.

    Raises:
        OptionError: no number.
        InputError: the file was exported without ``halt``.
    """
    if halt is None:
        return {}
    if not isinstance(halt, bool | int | float) or not (math.isinf(halt) or abs(halt) <= _LARGEST):
        raise OptionError(
            f"halt is {halt!r}", where="halt", fix="choose True, False, or a logit in the range of float32"
        )
    if metadata.halt is None:
        raise InputError("the file does not halt", where="halt", fix="leave it out, or export with halt='an output'")
    if halt is True:
        return {}
    return {metadata.halt.above: np.array(math.inf if halt is False else halt, np.float32)}
