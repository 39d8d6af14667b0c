"""What two reports do not have in common, value by value.

It walks the dictionaries of `Report.to_dict`, so that what a later schema adds is compared without being known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from laser_fx.reporting.parts import SiteReport
    from laser_fx.reporting.report import Report

__all__ = ["Difference", "differences"]

Kind = Literal["changed", "appeared", "vanished"]

_KEYS: Mapping[str, tuple[str, ...]] = {
    "loops": ("name",),
    "sites": ("key",),
    "children": ("name",),
    "trajectories": ("loop", "carry"),
    "dynamics": ("loop",),
    "memory": ("name",),
    "onnx": ("form",),
}
"""Lists whose entries have a name of their own; others are compared by position."""
_SERIES = {"steps", "spectra", "rows", "nodes"}
"""Lists of hundreds of entries: how many differ is said once."""


@dataclass(frozen=True)
class Difference:
    """One value that is not the same in both.

    Args:
        section: the report's field that it lies in: ``"sites"``.
        where: of which entry: a site's or a loop's name, ``""`` where the section has none.
        what: name of the value; ``""`` where it is the entry itself.
        kind: ``"changed"``, or ``"appeared"`` or ``"vanished"`` of what only one of them has.
        before: the value in the first report, None where there is none.
        after: the value in the second one.
        note: where it stands for others too: ``"12 of 288 differ"``.
    """

    section: str
    where: str
    what: str
    kind: Kind
    before: Any = None
    after: Any = None
    note: str = ""


def differences(before: Report, after: Report, *, tolerance: float = 0.0) -> list[Difference]:
    """What differs, section by section, in the order of a report's fields.

    Args:
        before: a report.
        after: another one.
        tolerance: numbers that differ by at most this part of the larger one count as equal.

    >>> from laser_fx.loops import Loop, LoopNest
    >>> from laser_fx.reporting.report import Report
    >>> def report(trips):
    ...     return Report("Tiny", LoopNest((Loop("loop_0", trips),)))
    >>> [(d.section, d.where, d.what, d.before, d.after) for d in differences(report(4), report(6))]
    [('loops', 'loop_0', 'trip_count', 4, 6)]
    """
    first, second = _comparable(before), _comparable(after)
    sections = dict.fromkeys((*first, *second))
    return [
        found
        for section in sections
        for found in _walk(_Place(section), first.get(section), second.get(section), tolerance)
    ]


@dataclass(frozen=True)
class _Place:
    section: str
    where: str = ""
    what: str = ""

    @property
    def last(self) -> str:
        return self.what.rpartition(".")[2] or self.section

    def value(self, name: str) -> _Place:
        return _Place(self.section, self.where, f"{self.what}.{name}".lstrip("."))

    def entry(self, name: str) -> _Place:
        where = name if not self.where or self.last == "children" else f"{self.where}.{self.what}[{name}]"
        return _Place(self.section, where)

    def found(self, kind: Kind, before: Any, after: Any) -> Difference:
        return Difference(self.section, self.where, self.what, kind, before, after)


def _comparable(report: Report) -> dict[str, Any]:
    """The report's dictionary: sites with what their steps come to, without the schema that it was written in."""
    data = report.to_dict()
    data["sites"] = [_flat(entry, site) for entry, site in zip(data["sites"], report.sites, strict=True)]
    if report.control is not None:
        data["control"] = _comparable(report.control)
        data["control"].pop("environment")  # made where the report was
    data.pop("schema")
    return data


def _flat(entry: dict[str, Any], site: SiteReport) -> dict[str, Any]:
    """A site's own fields first, then what was found there, and what its steps come to."""
    own = {"key": site.site.key, **entry.pop("site")}
    own["step_count"] = own.pop("steps")  # the entry has the steps themselves under this name
    if not site.steps:
        return own | entry
    counts = {"tracked": site.tracked, "resets": site.resets, "exact": site.exact}
    return own | {"lowest_fidelity": site.lowest_fidelity} | counts | entry


def _walk(place: _Place, before: Any, after: Any, tolerance: float) -> Iterator[Difference]:
    if before == after:
        return  # most of it is, and Python sees that faster than we would
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys((*before, *after)):
            yield from _walk(place.value(name), before.get(name), after.get(name), tolerance)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lists(place, before, after, tolerance)
    elif not _equal(before, after, tolerance):
        yield place.found("changed", before, after)


def _lists(place: _Place, before: list[Any], after: list[Any], tolerance: float) -> Iterator[Difference]:
    if place.last in _SERIES:
        yield from _series(place, before, after, tolerance)
    elif not any(isinstance(entry, Mapping) for entry in (*before, *after)):
        if not _equal(before, after, tolerance):
            yield place.found("changed", before, after)
    else:
        first, second = _named(place.last, before), _named(place.last, after)
        for name in dict.fromkeys((*first, *second)):
            there = place.entry(name)
            if name not in second:
                yield from _alone(there, "vanished", first[name])
            elif name not in first:
                yield from _alone(there, "appeared", second[name])
            else:
                yield from _walk(there, first[name], second[name], tolerance)


def _alone(place: _Place, kind: Kind, entry: Any) -> Iterator[Difference]:
    """An entry that one of them has, and with a loop those inside of it."""
    yield place.found(kind, *((entry, None) if kind == "vanished" else (None, entry)))
    for child in entry.get("children", ()) if isinstance(entry, Mapping) else ():
        yield from _alone(_Place(place.section, str(child.get("name"))), kind, child)


def _named(kind: str, entries: list[Any]) -> dict[str, Any]:
    """Entries by name; a second one of a name by its position too."""
    found: dict[str, Any] = {}
    for position, entry in enumerate(entries):
        name = _name(kind, entry, position)
        found[name if name not in found else f"{name} ({position})"] = entry
    return found


def _name(kind: str, entry: Any, position: int) -> str:
    keys = _KEYS.get(kind)
    return " ".join(str(entry[key]) for key in keys) if keys else str(position)


def _series(place: _Place, before: list[Any], after: list[Any], tolerance: float) -> Iterator[Difference]:
    """The first difference of a long list, and how many there are."""
    if len(before) != len(after):
        yield replace(place, what=f"{place.what} (count)").found("changed", len(before), len(after))
    first, unequal, pairs = None, 0, list(zip(before, after, strict=False))
    for position, pair in enumerate(pairs):
        found = next(_walk(replace(place, what=f"{place.what}[{position}]"), *pair, tolerance), None)
        first, unequal = first or found, unequal + (found is not None)
    if first is not None:
        yield replace(first, note=f"{unequal} of {len(pairs)} differ")


def _equal(before: Any, after: Any, tolerance: float) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_equal, before, after, [tolerance] * len(before)))
    if _is_number(before) and _is_number(after):
        return before == after or math.isclose(before, after, rel_tol=tolerance)
    return bool(type(before) is type(after) and before == after)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
