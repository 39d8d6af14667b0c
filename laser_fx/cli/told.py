"""What a command says besides its results, and with which code it ends."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from laser_fx.cli.bars import bars_or_none
from laser_fx.errors import LaserError, VerificationError
from laser_fx.events import heard_by
from laser_fx.progress import listening
from laser_fx.reporting.terminal import encoding_of, spelled

__all__ = ["Ends", "note", "say", "told"]


class Ends(IntEnum):
    """Exit codes, the same for every command."""

    WELL = 0, "it is done, or holds, or is equal"
    OTHERWISE = 1, "an answer is another one: a file does not answer as its model, two reports differ"
    REFUSED = 2, "a sentence on standard error says what is wrong with the arguments, a file, a factory or a model"
    DEFECT = 3, "a defect of laser-fx, with a traceback on standard error"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
    UNREAD = 141, "whoever read the results has left, as `head` does"

    def __new__(cls, code: int, meaning: str) -> Ends:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    meaning: str


@contextmanager
def told() -> Iterator[None]:
    """Errors, warnings and progress on standard error, errors as sentences; a traceback is for defects."""
    with warnings.catch_warnings(), heard_by(_Notes(logging.WARNING)), _endings(), _shown():
        warnings.showwarning = lambda message, *_, **__: note(f"warning: {message}")
        yield
        sys.stdout.flush()  # else a reader that left is found out about too late


class _Notes(logging.Handler):
    """What is logged: the library leaves it to the program to show it."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


@contextmanager
def _shown() -> Iterator[None]:
    bars = bars_or_none()
    with listening(bars):
        try:
            yield
        finally:
            if bars is not None:
                bars.close()


@contextmanager
def _endings() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except LaserError as error:
        note(f"error: {error}".replace("pass overwrite=True", "pass --overwrite"))  # as it is called here
        raise typer.Exit(Ends.OTHERWISE if isinstance(error, VerificationError) else Ends.REFUSED) from error
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(Ends.UNREAD) from error
    except KeyboardInterrupt as error:
        note("interrupted")
        raise typer.Exit(Ends.INTERRUPTED) from error
    except Exception as error:
        note(traceback.format_exc() + "error: this is a defect of laser-fx: please report it with the lines above")
        raise typer.Exit(Ends.DEFECT) from error


def say(line: str) -> None:
    """A line of the results, on standard output."""
    print(spelled(line, encoding_of(sys.stdout)))


def note(line: str) -> None:
    """A line on standard error, so that it does not get among the results."""
    print(spelled(line, encoding_of(sys.stderr)), file=sys.stderr)
