"""Dataclasses to and from what JSON has: dictionaries, lists, texts and finite numbers."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["field_types", "parsed", "plain"]

_LARGEST = 2**64


def plain(value: Any) -> Any:
    """Dictionaries, lists, texts and finite numbers alone; NaN and infinities become ``None``.

    >>> plain({"a": (1.5, float("nan"))})
    {'a': [1.5, None]}
    """
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.compare}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parsed(kind: Any, data: Any, where: str = "") -> Any:
    """What `plain` made ``data`` of, as ``kind``.

    Args:
        kind: a dataclass, or the type of one of its fields.
        data: as ``json.load`` gives it.
        where: of which field it is, for the error.

    Raises:
        TypeError: it is of another kind; the message says where.

    >>> parsed(tuple[int, ...], [1, 2])
    (1, 2)
    >>> parsed(dict[str, int], {"a": "b"}, "sizes")
    Traceback (most recent call last):
        ...
    TypeError: sizes.a is 'b', not of type int
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _one_of(arguments, data, where)
    if origin is Literal:
        return data if data in arguments else _refuse(kind, data, where)
    if origin is tuple:
        return _tuple(arguments, data, where, kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            _refuse(kind, data, where)
        return {key: parsed(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    return _scalar(kind, data, where)


@cache
def field_types(kind: Any) -> dict[str, Any]:
    """Name → type of every field of a dataclass that counts.

    >>> from laser_fx.loops import Step
    >>> field_types(Step)["rank"]
    <class 'int'>
    """
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind) if f.compare}


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    known = field_types(kind)
    if not isinstance(data, Mapping):
        _refuse(kind, data, where)
    if unknown := sorted(data.keys() - known.keys()):
        raise TypeError(f"{where or kind.__name__} has the unknown field {unknown[0]!r}")
    values = {name: parsed(known[name], item, f"{where}.{name}".lstrip(".")) for name, item in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise TypeError(f"{where or kind.__name__}: {error}") from error


def _one_of(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    failures = []
    for kind in (k for k in kinds if k is not type(None)):
        try:
            return parsed(kind, data, where)
        except TypeError as error:
            failures.append(error)
    raise failures[0]


def _tuple(kinds: tuple[Any, ...], data: Any, where: str, kind: Any) -> tuple[Any, ...]:
    if not isinstance(data, (list, tuple)):
        _refuse(kind, data, where)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(parsed(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if len(kinds) != len(data):
        _refuse(kind, data, where)
    return tuple(parsed(k, item, f"{where}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True)))


def _scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is float and data is None:
        return math.nan
    is_number = isinstance(data, (int, float)) and not isinstance(data, bool)
    if isinstance(data, int) and abs(data) > _LARGEST:
        raise TypeError(f"{where or 'it'} is a whole number of more than 64 bits")  # so long a one cannot be drawn
    if kind is float and is_number:
        return float(data)
    if isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    return _refuse(kind, data, where)


def _refuse(kind: Any, data: Any, where: str) -> Any:
    shown = repr(data) if len(repr(data)) <= 80 else repr(data)[:77] + "…"
    raise TypeError(f"{where or 'it'} is {shown}, not of type {getattr(kind, '__name__', kind)}")
