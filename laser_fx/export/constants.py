"""Arguments of a call that are no tensors: a file has them as they were at its export, and knows no others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from laser_fx.errors import InputError
from laser_fx.export.metadata import FileMetadata
from laser_fx.trees import CONSTANT, parameters_of

__all__ = ["check_constant", "check_constants"]

_PLAIN = (bool, int, float, str)


def check_constants(metadata: FileMetadata, inputs: Sequence[Any], named: Mapping[str, Any], where: str) -> None:
    """Refuse arguments that would be without effect: the file would answer as if they were others.

    Args:
        metadata: what the file says of the arguments that it was exported with.
        inputs: the positional arguments of a call.
        named: its keyword arguments.
        where: the file.

    Raises:
        InputError: a number, truth value, text or ``None`` that the file was not exported with.
    """
    tree = metadata.input_tree  # a file from elsewhere may say anything that is a tree
    told = isinstance(tree, list) and len(tree) == 2 and isinstance(tree[0], list) and isinstance(tree[1], dict)
    places, by_name = tree if told else ([], {})
    after = parameters_of(metadata.signature)[len(places) :] if len(inputs) > len(places) else ()
    ordered = [*places, *(by_name.get(name) for name in after)]
    for position, value in enumerate(inputs):
        if isinstance(value, _PLAIN):
            check_constant(value, ordered[position : position + 1], f"argument {position}", where)
    for name, value in named.items():
        if isinstance(value, _PLAIN):
            in_order = places if name in re.findall(r"\w+", metadata.signature) else []
            check_constant(value, [by_name[name]] if name in by_name else in_order, repr(name), where)
        elif value is None and name in by_name:
            check_constant(value, [by_name[name]], repr(name), where)


def check_constant(value: Any, places: Sequence[Any], name: str, where: str) -> None:
    """Refuse what is none of the constants in some places; of other objects nobody knows.

    Raises:
        InputError: a number, truth value, text or ``None`` that the file was not exported with.
    """
    constants = [place[CONSTANT] for place in places if isinstance(place, dict) and CONSTANT in place]
    is_known = any(value == constant and type(value) is type(constant) for constant in constants)
    if (value is None or isinstance(value, _PLAIN)) and not is_known:
        raise InputError(
            f"the file was not exported with {name} = {value!r}, and cannot be told it",
            where=where,
            fix="leave it out, or export the model with it; a depth is passed as depth=, a halting logit as halt=",
        )
