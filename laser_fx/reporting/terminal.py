"""A terminal or a file that may lack colour and characters: what it lacks is spelled with those that it has."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["Harmless", "console", "encoding_of", "plain_text", "spell_out", "spelled", "visible"]

# One character stands for one, so that columns stay where they are.
_SPELLINGS = str.maketrans("▁▂▃▄▅▆▇█×–—−→⊃‖…✓✗≥≤·µΔλ∂", ".:-=+*#@x--->>|~+x><.udld")


def spelled(text: str, encoding: str) -> str:
    """The text in characters that an encoding has, one for one; ``?`` where nothing comes close.

    >>> spelled("loop × 4 → ▁▄█ 日", "ascii")
    'loop x 4 > .=@ ?'
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_spelled(character, encoding) for character in text)
    return text


def _spelled(character: str, encoding: str) -> str:
    for candidate in (character, character.translate(_SPELLINGS)):
        try:
            candidate.encode(encoding)
        except UnicodeEncodeError:
            continue
        return candidate
    return "?"


def _what_is_lacking(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_spelled(character, error.encoding) for character in lacking), error.end


_HANDLER = "laser_fx.spelled"
codecs.register_error(_HANDLER, _what_is_lacking)


def spell_out(*files: TextIO) -> None:
    """From now on these are written to in characters that they have, whoever writes: a library's page of help, say.

    >>> held = io.BytesIO()
    >>> file = io.TextIOWrapper(held, encoding="ascii", write_through=True)
    >>> spell_out(file)
    >>> held.getvalue() if file.write("1 × 日…") else None
    b'1 x ?~'
    """
    for file in files:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors=_HANDLER)


def encoding_of(file: TextIO) -> str:
    """The encoding of a file; UTF-8 where it has none, as a text in memory."""
    return getattr(file, "encoding", None) or "utf-8"


def visible(text: str) -> str:
    """Control characters as Python writes them: a name must not move a cursor or ring a bell. Newlines stay.

    >>> print(visible("a" + chr(27) + "[31m"))
    a\\x1b[31m
    """
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


class Harmless:
    """What it holds, with control characters made `visible`."""

    def __init__(self, held: RenderableType) -> None:
        self._held = held

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._held, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class _Spelling:
    """A file that is written to in characters that it has."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, text: str) -> int:
        self._file.write(spelled(text, encoding_of(self._file)))
        return len(text)


def console(file: TextIO, width: int | None = None, *, plain: bool = False) -> Console:
    """A console on a file: colour only on a terminal that wants it, ASCII frames where the encoding has no others.

    Args:
        file: what is written to.
        width: in columns; a terminal's own unless given.
        plain: no colour, whatever the environment says.
    """
    out = cast(TextIO, _Spelling(file))
    if plain:
        return Console(
            file=out, width=width, highlight=False, legacy_windows=False, color_system=None, force_terminal=False
        )
    return Console(file=out, width=width, highlight=False, legacy_windows=False)


def plain_text(page: RenderableType, width: int, encoding: str = "utf-8") -> str:
    """What a file gets: no colour, no spaces at the ends of lines, and no character that its encoding lacks.

    Args:
        page: anything that rich prints.
        width: in columns.
        encoding: of the file.
    """
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console(buffer, width, plain=True).print(page)
    buffer.seek(0)
    return "\n".join(line.rstrip() for line in buffer.read().split("\n")).rstrip("\n")
