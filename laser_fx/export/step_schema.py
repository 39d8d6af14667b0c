"""The schema of a step plan, see `laser_fx.export.schema`: nothing that it refuses is ever used."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laser_fx.export.schema import MAX_TRIPS, SchemaError
from laser_fx.export.step_plan import (
    EXACT,
    EXACT_START,
    FINISH,
    REFRESH,
    START,
    WEIGHTS,
    Bases,
    ByStep,
    Kept,
    Part,
    Signature,
    State,
    StepPlan,
)

__all__ = ["ROLES", "check_step"]

ROLES = (START, FINISH, EXACT, EXACT_START, REFRESH, WEIGHTS)
_MOST, _LONGEST, _MOST_AXES = 10_000, 4096, 64
_FILE = re.compile(r"[^/\\\x00-\x1f:]{1,255}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"tensor\([a-z0-9]{1,16}\)")


def check_step(fields: Mapping[str, Any]) -> None:
    """Refuse a plan that this format could not have.

    Args:
        fields: every field of `laser_fx.export.metadata.FileMetadata` by name, as JSON has it.

    Raises:
        SchemaError: naming the field and what is wrong with it.
    """
    plan = fields["step"]
    if (plan is None) == (fields["form"] == "step"):
        raise SchemaError("a plan of steps belongs to the form 'step', and that form has one")
    if plan is None:
        return
    _object(plan, StepPlan, "step", _PLAN)
    for kind in ("parts", "states", "by_step", "kept"):
        key = "role" if kind == "parts" else "name"
        _distinct([entry[key] for entry in plan[kind]], f"step.{kind}")
    _distinct([part["file"] for part in plan["parts"]], "step.parts")
    _distinct([state["following"] for state in plan["states"]], "step.states")
    if [entry["name"] for entry in plan["signature"]] != list(fields["inputs"]):
        raise SchemaError("step.signature is not that of the inputs")
    if not 1 <= plan["least"] <= MAX_TRIPS or not 1 <= plan["trips"] <= MAX_TRIPS:
        raise SchemaError(f"step.trips is {plan['trips']}, at least {plan['least']}")
    if (plan["halted"] is None) != (fields["halt"] is None):
        raise SchemaError("step.halted does not go with halt")
    _check_bases(plan, fields["fidelity"])


def _check_bases(plan: Mapping[str, Any], fidelity: str | None) -> None:
    bases, has_refresh = plan["bases"], any(part["role"] == REFRESH for part in plan["parts"])
    if has_refresh is (bases is None) or (fidelity is None) is not (bases is None):
        raise SchemaError("step.bases do not go with the fidelity and the part that refreshes them")
    if bases is None:
        return
    if plan["min_fidelity"] is None or not bases["held"]:
        raise SchemaError("step.bases are none, or nothing measures them")
    _distinct([state["name"] for state in (*plan["states"], *bases["held"])], "step.states and step.bases")
    _distinct([state["following"] for state in (*plan["states"], *bases["held"])], "step.states and step.bases")


def _object(value: object, kind: type, where: str, checks: Mapping[str, Callable[[Any, str], None]]) -> None:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(value, dict) or value.keys() != set(names):
        raise SchemaError(f"{where} has not the fields {', '.join(names)}")
    for name in names:
        checks[name](value[name], f"{where}.{name}")


def _objects(kind: type, checks: Mapping[str, Callable[[Any, str], None]]) -> Callable[[Any, str], None]:
    def check(value: object, where: str) -> None:
        for entry in _list(value, where):
            _object(entry, kind, f"an entry of {where}", checks)

    return check


def _list(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise SchemaError(f"{where} is no list of at most {_MOST} entries")
    return value


def _name(value: object, where: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
        raise SchemaError(f"{where} holds {str(value)[:40]!r}, which is no name")


def _names(value: object, where: str) -> None:
    names = _list(value, where)
    for name in names:
        _name(name, where)
    _distinct(names, where)


def _distinct(names: Sequence[str], where: str) -> None:
    if len(set(names)) != len(names):
        raise SchemaError(f"a name stands twice in {where}")


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[Any, str], None]:
    def check(value: object, where: str) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise SchemaError(f"{where} is {str(value)[:40]!r}, {what}")

    return check


def _file(value: object, where: str) -> None:
    if not isinstance(value, str) or not _FILE.fullmatch(value) or not value.isprintable() or value.strip(".") == "":
        raise SchemaError(f"{where} is {str(value)[:40]!r}, no name of a file in this folder")


def _one_of(values: Sequence[str]) -> Callable[[Any, str], None]:
    def check(value: object, where: str) -> None:
        if value not in values:
            raise SchemaError(f"{where} is {str(value)[:40]!r}, not one of {', '.join(values)}")

    return check


def _count(value: object, where: str) -> None:
    if type(value) is not int or not 0 <= value < 2**63:
        raise SchemaError(f"{where} is {str(value)[:40]!r}, no count")


def _fidelity(value: object, where: str) -> None:
    if type(value) is not float or not 0.0 < value <= 1.0:
        raise SchemaError(f"{where} is {str(value)[:40]!r}, not in (0, 1]")


def _index(value: object, where: str) -> None:
    if value is not None and (type(value) is not int or not -MAX_TRIPS <= value < MAX_TRIPS):
        raise SchemaError(f"{where} is {str(value)[:40]!r}, no step")


def _shape(value: object, where: str) -> None:
    sizes = _list(value, where)
    if len(sizes) > _MOST_AXES:
        raise SchemaError(f"{where} has {len(sizes)} sizes")
    for size in sizes:
        (_name if isinstance(size, str) else _count)(size, where)


def _bases(value: object, where: str) -> None:
    _object(value, Bases, where, {"held": _objects(State, _STATE), "threshold": _fidelity, "keep_at": _name})


def _optional(check: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    return lambda value, where: None if value is None else check(value, where)


_STATE = {"name": _name, "following": _name, "first": _name}
_PLAN: dict[str, Callable[[Any, str], None]] = {
    "parts": _objects(
        Part, {"role": _one_of(ROLES), "file": _file, "sha256": _matching(_DIGEST, "no SHA-256 in hexadecimal")}
    ),
    "signature": _objects(Signature, {"name": _name, "type": _matching(_TYPE, "no type"), "shape": _shape}),
    "states": _objects(State, _STATE),
    "by_step": _objects(ByStep, {"name": _name, "rows": _name}),
    "kept": _objects(Kept, {"name": _name, "output": _name, "index": _index}),
    "position": _optional(_name),
    "trips": _count,
    "least": _count,
    "batched": _names,
    "unbatched": _names,
    "min_fidelity": _optional(_name),
    "halted": _optional(_name),
    "bases": _optional(_bases),
}
