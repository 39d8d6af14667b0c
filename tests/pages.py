"""The blocks of code on a page of docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Block", "blocks", "page"]


class Block(NamedTuple):
    """Language, the file name that may follow it, and the code."""

    language: str
    file: str
    text: str


def page(name: str) -> Path:
    """A page of docs/."""
    return Path(__file__).parents[1] / "docs" / name


def blocks(path: Path) -> list[Block]:
    """All fenced blocks, in order."""
    found = re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S)
    return [Block(*parts) for parts in found]
