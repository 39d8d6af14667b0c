"""JSON from a file that nobody vouches for: bounded in length and in depth, no NaN, no key twice."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "read_json"]

MAX_LENGTH = 4 * 2**20
MAX_DEPTH = 16


def read_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: the text is no JSON, too long, too deep, or ambiguous.

    >>> read_json('{"loop": [1, 2]}')
    {'loop': [1, 2]}
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{len(text)} characters, more than {MAX_LENGTH}")
    if (depth := _depth(text)) > MAX_DEPTH:
        raise ValueError(f"nested {depth} deep, more than {MAX_DEPTH}")
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_distinct)


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings; counted before parsing, which recurses."""
    depth = deepest = 0
    in_string = escaped = False
    for letter in text:
        if in_string:
            in_string = escaped or letter != '"'
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            in_string = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made
