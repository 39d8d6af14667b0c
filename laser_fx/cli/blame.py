"""An exception of somebody else's code in one sentence, and the line of that code."""

from __future__ import annotations

import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Blame", "blamed"]

_OWN = str(Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


@dataclass(frozen=True)
class Blame:
    """What went wrong.

    Args:
        sentence: kind and message, on one line.
        line: ``file:line in function`` of the innermost line that is no library's; None where there is none.
    """

    sentence: str
    line: str | None


def blamed(error: BaseException) -> Blame:
    """
    >>> blamed(ValueError("two\\nlines")).sentence
    'ValueError: two lines'
    """
    message = " ".join(str(error).split())
    sentence = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return Blame(sentence, f"{error.filename}:{error.lineno}")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_ours(f.filename)]
    theirs = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    inner = (theirs or frames)[-1:]
    return Blame(sentence, next((f"{f.filename}:{f.lineno} in {f.name}" for f in inner), None))


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OWN, "<frozen importlib"))
