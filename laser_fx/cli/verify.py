"""``laser-fx verify``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from laser_fx.cli.told import say, told
from laser_fx.export import FileCheck, verify_exported

__all__ = ["verify"]


def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file that laser-fx wrote.")],
    reference: Annotated[Path | None, typer.Option(help="A batch that export --reference wrote.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was checked as JSON.")] = False,
) -> None:
    """Check a file against its metadata, and its answers at two optimisation levels and against a reference batch.

    Exit codes: 0 it holds; 1 it answers wrongly, or no run could be compared, or not the reference batch, since
    rounding alone makes another answer; 2 it is missing, damaged, foreign or tampered with.
    """
    with told():
        checked = verify_exported(file, reference)
        if as_json:
            say(json.dumps(dataclasses.asdict(checked), indent=2, default=str))
        else:
            for line in _lines(checked):
                say(line)


def _lines(checked: FileCheck) -> Iterator[str]:
    """What was checked, a line each."""
    yield f"{checked.path}: {checked.form}"
    yield f"  checksum: {'right' if checked.checksum else 'none, the file may have been edited'}"
    yield "  metadata: fits the graph"
    if checked.not_run is not None:
        yield f"  not run as it is, but in float32: {checked.not_run}"
    for run in checked.runs:
        if not any(label.startswith(f"{run}, ") for label in checked.excused):
            yield f"  {run}: {' and '.join(checked.levels)} agree"
    for run in checked.excused:
        yield f"  not compared, a decision stood at the threshold or rounding alone makes another answer: {run}"
    yield f"  reference: {checked.reference or 'none, so only the levels were compared with each other'}"
    yield f"  largest difference: {checked.max_error:.1e} of the largest value"
    yield "verified"
