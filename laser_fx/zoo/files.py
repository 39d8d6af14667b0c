"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from laser_fx.errors import OutputPathError

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside ``path``, then rename it, so that a reader never sees half of it.

    Raises:
        OutputPathError: the directory is missing or cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(beside)
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        fix = "choose a directory that exists and can be written"
        raise OutputPathError(f"cannot write: {error}", where=str(path), fix=fix) from error
    finally:
        beside.unlink(missing_ok=True)
