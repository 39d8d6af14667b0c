"""What is being done at the moment, for whoever wants to show it: a command with a bar, say.

Work that may take more than a second runs in a `stage`. Without a listener a stage costs a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = ["Listener", "Stage", "at", "each", "listening", "stage"]

_Item = TypeVar("_Item")


@dataclass(eq=False)
class Stage:
    """A piece of work.

    Args:
        name: what is done, as ``tracing the model``.
        total: how many parts it has; None where that is not known.
        done: how many of them are done.
    """

    name: str
    total: int | None = None
    done: int = 0

    def advance(self) -> None:
        """One part more is done."""
        self.done += 1
        listener = _listener.get()
        if listener is not None:
            listener.advanced(self)


class Listener(Protocol):
    """Who is told: stages lie in each other, and end in the reverse order."""

    def began(self, stage: Stage) -> None:
        """A stage has begun."""

    def advanced(self, stage: Stage) -> None:
        """A part of it is done."""

    def ended(self, stage: Stage) -> None:
        """It has ended, well or not."""


_listener: ContextVar[Listener | None] = ContextVar("laser_fx_progress", default=None)
_innermost: ContextVar[Stage | None] = ContextVar("laser_fx_stage", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Tell this listener about the stages inside, in this thread; None for nobody."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def stage(name: str, total: int | None = None) -> Iterator[Stage]:
    """A piece of work with a name; also a decorator of a function that is one.

    Args:
        name: what is done.
        total: how many parts it has, where that is known: `Stage.advance` counts them.

    >>> class Names:
    ...     def began(self, stage):
    ...         print(stage.name)
    ...     def advanced(self, stage):
    ...         print(stage.done, "of", stage.total)
    ...     def ended(self, stage):
    ...         pass
    >>> @stage("counting")
    ... def count():
    ...     with stage("to one", total=1) as inner:
    ...         inner.advance()
    >>> with listening(Names()):
    ...     count()
    counting
    to one
    1 of 1
    """
    listener, current, outer = _listener.get(), Stage(name, total), _innermost.get()
    if listener is not None:
        listener.began(current)
    _innermost.set(current)
    try:
        yield current
    finally:
        _innermost.set(outer)
        if listener is not None:
            listener.ended(current)


def at(done: int, total: int) -> None:
    """Say how far the innermost stage is, where that is found out on the way; outside of stages nobody is told."""
    listener, current = _listener.get(), _innermost.get()
    if current is not None:
        current.done, current.total = done, total
        if listener is not None:
            listener.advanced(current)


def each(name: str, items: Sequence[_Item]) -> Iterator[_Item]:
    """The items, one after the other; a stage that is as many parts long.

    >>> list(each("adding", [1, 2]))
    [1, 2]
    """
    with stage(name, total=len(items)) as current:
        for item in items:
            yield item
            current.advance()
