"""The schema of the metadata: which fields, which types, which ranges. Nothing that it refuses is ever used."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from laser_fx.loops import Site
from laser_fx.trees import CLASS, CONSTANT, TENSOR

__all__ = ["FORMS", "HALT_PER", "MAX_TRIPS", "SchemaError", "check"]

FORMS = ("rolled", "functions", "step", "unrolled")
HALT_PER = ("batch", "example")
MAX_TRIPS = 1_000_000
"""The deepest that a loop may be asked to run."""

_MAX_NAME = 4096
_FILE = re.compile(r"[^/\\:]*[^/\\:.][^/\\:]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_ENTRIES = 100_000


class SchemaError(ValueError):
    """A field is not what the format says; the message names it."""


def check(fields: Mapping[str, Any]) -> None:
    """Refuse metadata that no version of this format could have written.

    Args:
        fields: every field of `laser_fx.export.metadata.FileMetadata` by name, as JSON has it.

    Raises:
        SchemaError: naming the field and what is wrong with it.
    """
    if fields["form"] not in FORMS:
        raise SchemaError(f"form is {str(fields['form'])[:40]!r}, not one of {', '.join(FORMS)}")
    _names(fields["inputs"], "inputs")
    for kind in ("outputs", "records"):
        pairs = _list(fields[kind], kind)
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise SchemaError(f"{kind} are not pairs of names")
        _names([value for _, value in pairs], kind)
        _names([name for name, _ in pairs], kind)
    if fields["fidelity"] is not None:
        _name(fields["fidelity"], "fidelity")
    _objects(fields["depths"], "depths", {"input": str, "loop": str, "default": int, "least": int})
    _objects(fields["loops"], "loops", {"name": str, "level": int, "trips": int})
    _sites(fields["sites"])
    _names([loop["name"] for loop in fields["loops"]], "loops")
    _trips(fields)
    _options(fields["options"])
    _data(fields["data"])
    _name(fields["signature"], "signature")
    _tree(fields["input_tree"], "input_tree", fields["inputs"])
    _tree(fields["output_tree"], "output_tree", [name for name, _ in fields["outputs"]])
    _halt(fields["halt"], [name for name, _ in fields["outputs"]])
    _names(fields["conditions"], "conditions")


_SITE: dict[str, type] = {
    f.name: str if f.name in ("name", "loop", "weight") else int
    for f in dataclasses.fields(Site)
    if f.name != "objective"
}
_OBJECTIVES = (None, "activation", "output", "answer")


def _sites(value: object) -> None:
    """Files of earlier versions tell of no objective."""
    told = [dict(entry) if isinstance(entry, dict) else entry for entry in _list(value, "sites")]
    objectives = [entry.pop("objective", None) for entry in told if isinstance(entry, dict)]
    _objects(told, "sites", _SITE)
    if not all(type(objective) in (str, type(None)) and objective in _OBJECTIVES for objective in objectives):
        raise SchemaError("sites.objective is neither activation, output nor answer")


def _list(value: object, where: str) -> Sequence[Any]:
    if not isinstance(value, list) or len(value) > _MAX_ENTRIES:
        raise SchemaError(f"{where} is no list of at most {_MAX_ENTRIES} entries")
    return value


def _name(value: object, where: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or not value.isprintable():
        raise SchemaError(f"{where} holds {str(value)[:40]!r}, which is no name")


def _names(value: object, where: str) -> None:
    names = _list(value, where)
    for name in names:
        _name(name, where)
    if len(set(names)) != len(names):
        raise SchemaError(f"a name stands twice in {where}")


def _objects(value: object, where: str, kinds: Mapping[str, type]) -> None:
    for entry in _list(value, where):
        if not isinstance(entry, dict) or entry.keys() != kinds.keys():
            raise SchemaError(f"an entry of {where} has not the fields {', '.join(kinds)}")
        for key, kind in kinds.items():
            if kind is str:
                _name(entry[key], f"{where}.{key}")
            elif not (entry[key] is None and key == "rank") and not _is_count(entry[key]):
                raise SchemaError(f"{where}.{key} is {str(entry[key])[:40]!r}, no count")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _trips(fields: Mapping[str, Any]) -> None:
    for loop in fields["loops"]:
        if loop["trips"] < 1:
            raise SchemaError(f"{loop['name']} runs {loop['trips']} times")
    for depth in fields["depths"]:
        if not 1 <= depth["least"] <= depth["default"]:
            raise SchemaError(f"the depth of {depth['loop']} is {depth['default']}, at least {depth['least']}")


def _tree(tree: object, where: str, known: Sequence[str]) -> None:
    """A plain tree of known tensors."""
    if isinstance(tree, list):
        for item in tree:
            _tree(item, where, known)
    elif not isinstance(tree, dict):
        raise SchemaError(f"{where} holds {str(tree)[:40]!r}, which is no structure")
    elif TENSOR in tree:
        if len(tree) != 1 or tree[TENSOR] not in known:
            raise SchemaError(f"{where} has a place for {str(tree[TENSOR])[:40]!r}, which the file has not")
    elif CONSTANT in tree:
        if len(tree) != 1 or not isinstance(tree[CONSTANT], bool | int | float | str | None):
            raise SchemaError(f"{where} has a constant that is no number and no text")
    else:
        for key, item in tree.items():
            _name(key, where)
            _name(item, where) if key == CLASS else _tree(item, where, known)


def _data(value: object) -> None:
    if value is None:
        return
    _objects([value], "data", {"file": str, "sha256": str})
    if not isinstance(value, dict) or not _FILE.fullmatch(value["file"]) or not _SHA256.fullmatch(value["sha256"]):
        raise SchemaError("data is no file of this folder with its SHA-256")


def _halt(value: object, outputs: Sequence[str]) -> None:
    if value is None:
        return
    default = value.get("default") if isinstance(value, dict) else None
    if type(default) is not float:
        raise SchemaError(f"halt.default is {str(default)[:40]!r}, no number")
    named = {key: entry for key, entry in value.items() if key != "default"}  # type: ignore[attr-defined]
    _objects([named], "halt", {"output": str, "per": str, "above": str, "steps": str, "least": int})
    if named["per"] not in HALT_PER or named["output"] not in outputs or named["least"] < 1:
        raise SchemaError(f"halt is {str(value)[:200]!r}: of no output, or per neither {' nor '.join(HALT_PER)}")


def _options(value: object) -> None:
    if not isinstance(value, dict):
        raise SchemaError("options is no object")
    for name in value:
        _name(name, "options")
