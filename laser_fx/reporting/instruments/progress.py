"""Word of what is being measured, for the log and for whoever shows progress."""

from __future__ import annotations

import logging

from laser_fx.events import tell
from laser_fx.progress import at

__all__ = ["told"]


def told(stage: str, done: int, of: int) -> None:
    """Say that a part of a measurement begins: in the log as the event ``measuring``, and to the stage at hand.

    Args:
        stage: what is measured: ``"dynamics"``.
        done: how many parts are done.
        of: how many there are.
    """
    at(done, of)
    tell(logging.INFO, "measuring", "measuring %s: %d of %d", stage, done, of, stage=stage, done=done, of=of)
