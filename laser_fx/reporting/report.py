"""The report: what was found, measured and done. Data, with three ways to look at it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TextIO

from laser_fx.errors import InputError
from laser_fx.loops import Loop, LoopNest, NearMiss, Site, Step
from laser_fx.options import Options
from laser_fx.reporting import html, text
from laser_fx.reporting.parts import Flops, GraphSize, SavedBytes, SiteReport

__all__ = ["SCHEMA", "Report"]

SCHEMA = 2
"""Version of what `Report.to_dict` returns: it grows when a reader of the older one would misread the newer one."""
_READABLE = (1, 2)
"""Schema 1 has no near-misses."""


@dataclass(frozen=True, repr=False)
class Report:
    """What a compilation, or an inspection, found and did.

    Args:
        model: name of the model's class.
        loops: the loop nest.
        sites: what was found at each site, in program order.
        options: the options that it was made with.
        environment: versions and machine, see `laser_fx.reporting.environment`.
        flops: floating-point operations of one call; ``None`` where not measured.
        saved_bytes: bytes saved for backward; ``None`` where not measured.
        graph: nodes captured and rolled; ``None`` where not measured.
        warnings: what the user should know, one sentence each.
        near_misses: repetitions that are nearly loops, and what keeps them from being one, best first.

    >>> report = Report("Tiny", LoopNest((Loop("loop_0", 4, carry=("z",)),)))
    >>> report
    Report('Tiny', 1 loop, 0 sites)
    >>> Report.from_dict(report.to_dict()) == report
    True
    """

    model: str
    loops: LoopNest = field(default_factory=LoopNest)
    sites: tuple[SiteReport, ...] = ()
    options: Options = field(default_factory=Options)
    environment: Mapping[str, str] = field(default_factory=dict)
    flops: Flops | None = None
    saved_bytes: SavedBytes | None = None
    graph: GraphSize | None = None
    warnings: tuple[str, ...] = ()
    near_misses: tuple[NearMiss, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report for ``json.dumps``: loop bodies left out, NaN as ``None``, and ``"schema"``, see `SCHEMA`."""
        return {"schema": SCHEMA, **_plain(self), "loops": _plain(self.loops.loops)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The report that `to_dict` made a dictionary of.

        Raises:
            InputError: the dictionary is no report, or one of another schema.
        """
        if data.get("schema") not in _READABLE:
            raise InputError(
                f"the report has schema {data.get('schema')!r}, this version reads {' and '.join(map(str, _READABLE))}",
                where="schema",
                fix="make the report again, or read it with the version of laser-fx that wrote it",
            )
        try:
            return cls(**_parsed(data))
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "the dictionary is no report", where=str(error), fix="pass what to_dict returned"
            ) from error

    def print(self, file: TextIO | None = None) -> None:
        """Prints the nest, the sites and the totals, in colour on a terminal.

        Args:
            file: where to; standard output unless given.
        """
        text.print_report(self, file)

    def to_html(self, path: str | PathLike[str], overwrite: bool = False) -> Path:
        """Writes one page that needs no other file and no network.

        Args:
            path: the file to write. Its folder must exist.
            overwrite: whether a file of that name may be replaced.

        Returns:
            The path.

        Raises:
            OutputPathError: the file exists, or cannot be written there.
        """
        return html.write(self, Path(path), overwrite=overwrite)

    def __str__(self) -> str:
        return text.render(self)

    def __repr__(self) -> str:
        loops = sum(1 for _ in self.loops.walk())
        return f"Report({self.model!r}, {text.counted(loops, 'loop')}, {text.counted(len(self.sites), 'site')})"


def _plain(value: Any) -> Any:
    """Dictionaries, lists, texts and finite numbers alone."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "body"}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _parsed(data: Mapping[str, Any]) -> dict[str, Any]:
    fields = {key: value for key, value in data.items() if key != "schema"}
    kinds = {"options": Options, "flops": Flops, "saved_bytes": SavedBytes, "graph": GraphSize}
    return {
        **fields,
        **{key: kind(**data[key]) for key, kind in kinds.items() if data[key] is not None},
        "loops": LoopNest(tuple(_loop(loop) for loop in data["loops"])),
        "sites": tuple(_site(site) for site in data["sites"]),
        "environment": dict(data["environment"]),
        "warnings": tuple(data["warnings"]),
        "near_misses": tuple(NearMiss(**miss) for miss in data.get("near_misses", ())),
    }


def _loop(data: Mapping[str, Any]) -> Loop:
    texts = {key: tuple(value) for key, value in data.items() if isinstance(value, list)}
    return Loop(**{**data, **texts, "children": tuple(_loop(child) for child in data["children"])})


def _site(data: Mapping[str, Any]) -> SiteReport:
    steps = tuple(Step(**{**step, "fidelity": _number(step["fidelity"])}) for step in data["steps"])
    return SiteReport(**{**data, "site": Site(**data["site"]), "steps": steps, "rank_at": tuple(data["rank_at"])})


def _number(value: float | None) -> float:
    return math.nan if value is None else value
