"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from laser_fx.errors import OutputPathError

__all__ = ["check_target", "replacing", "write_text"]

_SHOWN = 40  # letters of a name: with all of a long one, the file beside it would have too long a name


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that cannot be written, before the work is done.

    Raises:
        OutputPathError: the directory is missing or closed, the path is none or a directory, or a file is there.
    """
    where = str(path)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name that is too long, a closed directory, a zero byte
        what = getattr(error, "strerror", None) or error
        raise OutputPathError(
            f"nothing can be written there: {what}", where=where, fix="choose another path"
        ) from error
    if not path.parent.is_dir():
        raise OutputPathError("the directory does not exist", where=str(path.parent), fix="create it first")
    if path.is_dir():
        raise OutputPathError("the path is a directory", where=where, fix="add a file name")
    if path.exists() and not overwrite:
        raise OutputPathError("the file exists already", where=where, fix="pass overwrite=True or choose another path")
    if not os.access(path.parent, os.W_OK):
        raise OutputPathError("the directory is not writable", where=str(path.parent), fix="choose another directory")


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A file to write beside ``path``, renamed to it at the end, removed if anything fails.

    Raises:
        OutputPathError: see `check_target`, or the disk refuses.
    """
    check_target(path, overwrite=overwrite)
    beside = path.with_name(f".{path.name[:_SHOWN]}.{secrets.token_hex(4)}.tmp")
    try:
        yield beside
        beside.replace(path)
    except OSError as error:
        if isinstance(error, OutputPathError):
            raise
        raise OutputPathError(f"the file cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, overwrite: bool) -> None:
    """Write a whole file, UTF-8, that nobody sees half written.

    Raises:
        OutputPathError: see `replacing`.
    """
    with replacing(path, overwrite=overwrite) as beside:
        beside.write_text(text, encoding="utf-8")
