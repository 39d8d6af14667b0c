"""``laser-fx diff``."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from laser_fx.cli.told import Ends, note, say, told
from laser_fx.errors import InputError
from laser_fx.reporting import Report
from laser_fx.reporting.differences import Difference, differences
from laser_fx.reporting.text_differences import print_differences

__all__ = ["diff"]

_IGNORED = ("environment",)
_FIX = "write it by: laser-fx inspect … --json"


def diff(
    before: Annotated[
        Path, typer.Argument(metavar="A.json", help="What inspect --json printed; - for standard input.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="The same of another model, or version.")],
    tolerance: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Numbers that differ by at most this part of the larger are equal.")
    ] = 0.0,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="SECTION", help="A part of the reports that does not count, again for more: picture."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare two reports: loops, trip counts, sites, ranks, fidelity, FLOPs, bytes, and whatever else they hold.

    Versions and machine may differ. Exit codes: 0 equal; 1 different; 2 a file cannot be read.
    """
    with told():
        if str(before) == str(after) == "-":
            raise InputError("both reports are standard input", where="diff", fix="name a file for one of them")
        first, second = _read(before), _read(after)
        ignored = {*_IGNORED, *_known(ignore or [])}
        found = [one for one in _compared(first, second, tolerance) if one.section not in ignored]
        _print(found, as_json=as_json)
        if found:
            raise typer.Exit(Ends.OTHERWISE)


def _print(found: list[Difference], *, as_json: bool) -> None:
    if as_json:
        say(json.dumps([dataclasses.asdict(one) for one in found], indent=2, allow_nan=False))
    elif found:
        print_differences(found, sys.stdout)
        sys.stdout.flush()
        note(f"{len(found)} difference" + ("" if len(found) == 1 else "s"))
    else:
        note("the reports are equal")


def _compared(before: Report, after: Report, tolerance: float) -> list[Difference]:
    try:
        return differences(before, after, tolerance=tolerance)
    except RecursionError as error:
        raise InputError("a report is nested too deep", where="diff", fix=_FIX) from error


def _known(sections: list[str]) -> list[str]:
    known = [field.name for field in dataclasses.fields(Report)]
    if unknown := [section for section in sections if section not in known]:
        raise InputError(f"a report has no {unknown[0]!r}", where="--ignore", fix=f"choose among {', '.join(known)}")
    return sections


def _read(path: Path) -> Report:
    where = "standard input" if str(path) == "-" else str(path)
    try:
        data: Any = json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"the report cannot be read: {error.strerror}", where=where, fix=_FIX) from error
    except (ValueError, RecursionError) as error:  # of JSON, and of UTF-8
        raise InputError(f"the report is no JSON: {error}", where=where, fix=_FIX) from error
    if not isinstance(data, dict):
        raise InputError("the file holds no report", where=where, fix=_FIX)
    try:
        return Report.from_dict(data)
    except InputError as error:
        raise InputError(error.what, where=f"{where}: {error.where}", fix=error.fix) from error
    except RecursionError as error:
        raise InputError("the report is nested too deep", where=where, fix=_FIX) from error
