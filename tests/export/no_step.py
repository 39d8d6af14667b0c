"""Why a program has no step of its own: the refusals that are known, and in docs/deployment.md."""

from __future__ import annotations

from laser_fx.errors import ExportError

__all__ = ["REASONS", "why_no_step"]

REASONS = {
    "sites of several outermost loops are measured": "sites of several outermost loops",
    "the program has no loop": "no loop",
}
"""By words of the error: the reason in a few."""


def why_no_step(error: ExportError) -> str | None:
    """The reason, where it is one that is known.

    >>> why_no_step(ExportError("the program has no loop whose step could be cut out"))
    'no loop'
    >>> why_no_step(ExportError("the disk is full")) is None
    True
    """
    return next((reason for words, reason in REASONS.items() if words in error.what), None)
