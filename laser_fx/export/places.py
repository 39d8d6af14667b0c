"""Where the tensors of a call belong: by the keys of its structures and by the model's parameters, not by chance.

A file knows the arguments that it was exported with as a plain tree, and the model's signature as text. Neither is
trusted: whatever fits nothing there is matched in order, or refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from laser_fx.errors import InputError
from laser_fx.export.constants import check_constant
from laser_fx.export.metadata import FileMetadata
from laser_fx.trees import CLASS, CONSTANT, TENSOR, parameters_of, tensor_names

__all__ = ["Places", "Unlike", "is_tensor"]


class Unlike(Exception):
    """A value has another structure than the argument that the file was exported with."""


class Places:
    """The arguments that a file was exported with.

    Args:
        metadata: of the file.
        where: the file.
    """

    def __init__(self, metadata: FileMetadata, where: str) -> None:
        tree = metadata.input_tree  # a file from elsewhere may say anything that is a tree
        told = isinstance(tree, list) and len(tree) == 2 and isinstance(tree[0], list) and isinstance(tree[1], dict)
        self._in_order, self._by_name = tree if told else ([], {})
        self._metadata, self._where, self._told = metadata, where, told

    def in_order(self) -> tuple[str, ...]:
        """Inputs that may come in order: arguments of the export, then those by keyword that the signature puts next.

        What was left out at the export ends it: the model would take a tensor there for another argument.
        """
        names = self._metadata.inputs
        if not self._told or not any(True for _ in tensor_names(list(self._by_name.values()))):
            return names
        found = list(tensor_names(self._in_order))
        for parameter in parameters_of(self._metadata.signature)[len(self._in_order) :]:
            if parameter not in self._by_name:
                break
            found += tensor_names(self._by_name[parameter])
        return tuple(found)

    def of_all(self, values: Sequence[Any]) -> dict[str, Any]:
        """Tensors by input, of arguments in order.

        Raises:
            Unlike: they are not in the structures of the model's arguments.
            InputError: a tensor or a constant that the file does not know.
        """
        more = parameters_of(self._metadata.signature)[len(self._in_order) :]
        places = [*self._in_order, *(self._by_name.get(name) for name in more)]
        found: dict[str, Any] = {}
        for position, value in enumerate(values):
            place = places[position] if position < len(places) else None
            if place is None and is_tensor(value):
                raise Unlike
            found |= () if place is None else self._paired(value, place, f"argument {position}")
        return found

    def of(self, name: str, value: Any) -> dict[str, Any]:
        """Tensors by input, of an argument by its name; see `of_all`."""
        known = dict(zip(parameters_of(self._metadata.signature), self._in_order, strict=False))
        heads = {_head(place): place for place in self._in_order}
        place = self._by_name.get(name) or known.get(name) or heads.get(name)
        if place is None:
            raise Unlike
        return dict(self._paired(value, place, name))

    def head_of(self, position: int) -> str | None:
        """The name of the argument in this place, where it has tensors."""
        return _head(self._in_order[position]) if position < len(self._in_order) else None

    def _paired(self, value: Any, place: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(place, list):
            if not isinstance(value, list | tuple) or len(value) != len(place):
                raise Unlike
            for position, (item, inner) in enumerate(zip(value, place, strict=True)):
                yield from self._paired(item, inner, f"{path}.{position}")
        elif TENSOR in place:
            if not is_tensor(value):
                raise Unlike
            yield place[TENSOR], value if isinstance(value, Tensor) else np.asarray(value)
        elif CONSTANT in place:
            if is_tensor(value):
                raise Unlike
            check_constant(value, [place], path, self._where)
        else:
            yield from self._fields(_fields_of(value, place), place, path)

    def _fields(self, fields: Mapping[str, Any], place: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for key, value in fields.items():
            here = f"{path}.{key}"
            if key in place and key != CLASS:
                yield from self._paired(value, place[key], here)
            elif is_tensor(value):
                known = ", ".join(map(repr, self._metadata.inputs))
                raise InputError(f"there is no input {here!r}", where=self._where, fix=f"choose among {known}")
            elif value is not None:
                check_constant(value, [], here, self._where)


def is_tensor(value: Any) -> bool:
    """Whether a file takes it as a tensor."""
    return isinstance(value, Tensor | np.ndarray | np.generic)


def _head(place: Any) -> str | None:
    """The argument that a place is of, by the name of its first tensor."""
    first = next(tensor_names(place), None)
    return None if first is None else first.partition(".")[0]


def _fields_of(value: Any, place: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and isinstance(names, tuple) and CLASS in place:
        return dict(zip(names, value, strict=True))
    raise Unlike
