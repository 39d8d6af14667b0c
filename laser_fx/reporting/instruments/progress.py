"""Word of what is being measured, for whoever shows progress."""

from __future__ import annotations

import logging

from laser_fx.events import tell

__all__ = ["told"]


def told(stage: str, done: int, of: int) -> None:
    """Log that a part of a measurement begins, as the event ``measuring``.

    Args:
        stage: what is measured: ``"dynamics"``.
        done: how many parts are done.
        of: how many there are.
    """
    tell(logging.INFO, "measuring", "measuring %s: %d of %d", stage, done, of, stage=stage, done=done, of=of)
