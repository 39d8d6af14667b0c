"""The JSON Schema of a report, made from its dataclasses."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin

from laser_fx.loops import Loop
from laser_fx.reporting.plain import field_types
from laser_fx.reporting.report import SCHEMA, Report

__all__ = ["json_schema"]

Schema = dict[str, Any]

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_SCALARS = {str: "string", bool: "boolean", int: "integer", type(None): "null"}


def json_schema() -> Schema:
    """What `Report.to_dict` returns, and so what ``laser-fx inspect --json`` prints, as JSON Schema, draft 2020-12.

    Every field is there and no other; a number that is not finite is null. The descriptions of all fields are in
    `laser_fx.reporting`.

    >>> schema = json_schema()
    >>> schema["properties"]["schema"], "trajectories" in schema["required"]
    ({'const': 3}, True)
    """
    known: dict[str, Schema] = {}
    _named(Report, known)
    report = known["Report"]
    # The nest stands as its loops, and what a dictionary was written by comes first.
    report["properties"] = {"schema": {"const": SCHEMA}, **report["properties"], "loops": _of(tuple[Loop, ...], known)}
    report["required"] = ["schema", *report["required"]]
    known.pop("LoopNest", None)
    return {"$schema": _DRAFT, "title": "laser-fx report", **known.pop("Report"), "$defs": dict(sorted(known.items()))}


def _of(kind: Any, known: dict[str, Schema]) -> Schema:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return {}
    if kind is Report:
        return {"$ref": "#"}
    if dataclasses.is_dataclass(kind):
        return _named(kind, known)
    if origin in (Union, types.UnionType):
        return _one_of([_of(argument, known) for argument in arguments])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _tuple(arguments, known)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], known)}
    return {"type": ["number", "null"]} if kind is float else {"type": _SCALARS[kind]}


def _named(kind: Any, known: dict[str, Schema]) -> Schema:
    """A reference to a dataclass, which is described once."""
    name = kind.__name__
    if name not in known:
        known[name] = {}
        fields = {field: _of(of, known) for field, of in field_types(kind).items()}
        known[name].update(type="object", properties=fields, required=list(fields), additionalProperties=False)
    return {"$ref": f"#/$defs/{name}"}


def _one_of(choices: list[Schema]) -> Schema:
    distinct = [choice for place, choice in enumerate(choices) if choice not in choices[:place]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _tuple(kinds: tuple[Any, ...], known: dict[str, Schema]) -> Schema:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return {"type": "array", "items": _of(kinds[0], known)}
    items = [_of(kind, known) for kind in kinds]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
