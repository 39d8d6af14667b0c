"""Why a program has no step of its own: the refusals that are known, and in docs/deployment.md."""

from __future__ import annotations

from laser_fx.errors import ExportError

__all__ = ["REASONS", "why_no_step"]

REASONS = {
    "outermost loops": "several outermost loops",
    "the program has no loop": "no loop",
}
"""By words of the error: the reason in a few."""


def why_no_step(error: ExportError) -> str | None:
    """The reason, where it is one that is known.

    >>> why_no_step(ExportError("the program has 2 outermost loops, not one: loop_0, loop_1"))
    'several outermost loops'
    >>> why_no_step(ExportError("the disk is full")) is None
    True
    """
    return next((reason for words, reason in REASONS.items() if words in error.what), None)
