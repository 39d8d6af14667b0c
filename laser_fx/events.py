"""What laser-fx logs: one logger, ``laser_fx``, and a name and fields for everything that it says.

The logger is silent until the program that uses it configures `logging`. Every record has ``event``, one of `EVENTS`,
and that event's fields as attributes, so that a handler need not read sentences.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

__all__ = ["EVENTS", "LOGGER", "heard_by", "is_told", "tell", "untold"]

LOGGER = "laser_fx"

_log = logging.getLogger(LOGGER)
_log.addHandler(logging.NullHandler())

EVENTS: Mapping[str, tuple[str, ...]] = {
    "pass": ("model", "made_by", "nodes", "loops"),
    "compiled": ("model", "training", "grad_enabled", "captured", "rolled", "trips", "sites", "seconds"),
    "recompiling": ("model", "causes"),
    "programs_full": ("model", "programs", "cause", "times"),
    "size_fixed": ("size",),
    "exact_forward": (),
    "slow_basis": ("site", "reset_rate", "steps"),
    "slow_pooled_basis": ("site", "renewal_rate", "reset_rate", "steps"),
    "backend_graph": ("trips", "sites"),
    "backend_refused": ("error",),
    "calibrating": ("stage", "sites"),
    "nothing_pays": ("sites",),
    "calibration_trial": ("family", "flops_share", "kept", "examples"),
    "measuring": ("stage", "done", "of"),
    "exported": ("path", "form", "bytes", "nodes", "verified", "seconds"),
    "provider_missed": ("path", "running", "provider", "reason"),
    "preloaded": (),
}
"""Event → its fields."""


def tell(level: int, event: str, message: str, *args: object, **fields: Any) -> None:
    """Log an event.

    Args:
        level: of `logging`.
        event: one of `EVENTS`.
        message: a sentence with ``%`` places.
        args: what they stand for.
        fields: the event's own, as `EVENTS` lists them.

    >>> records = []
    >>> class Keep(logging.Handler):
    ...     def emit(self, record):
    ...         records.append(record)
    >>> handler = Keep()
    >>> _log.addHandler(handler)
    >>> tell(logging.WARNING, "size_fixed", "the size %r stays", "length", size="length")
    >>> _log.removeHandler(handler)
    >>> records[0].getMessage(), records[0].event, records[0].size
    ("the size 'length' stays", 'size_fixed', 'length')
    """
    if fields.keys() != set(EVENTS[event]):
        raise ValueError(f"the fields of {event} are {', '.join(EVENTS[event])}, not {', '.join(fields)}")
    _log.log(level, message, *args, extra={"event": event, **fields}, stacklevel=2)


@contextmanager
def heard_by(handler: logging.Handler) -> Iterator[None]:
    """For programs of our own: a handler of what is logged meanwhile."""
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


def is_told(level: int) -> bool:
    """Whether anybody listens at this level: what only the log wants to know is not computed otherwise."""
    return _log.isEnabledFor(level)


@contextmanager
def untold(logger: str) -> Iterator[None]:
    """What another library logs is kept back meanwhile: for what it tells besides raising it.

    >>> with untold("some.library"):
    ...     logging.getLogger("some.library").error("a traceback that an error of ours says in a sentence")
    """
    log = logging.getLogger(logger)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
