"""``laser-fx inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast

import typer

import laser_fx
from laser_fx.cli.arguments import Batch, Factory, Inputs, Overwrite, Seed, example_of
from laser_fx.cli.complete import measure_names
from laser_fx.cli.told import note, say, told
from laser_fx.files import check_target
from laser_fx.options import Options
from laser_fx.reporting.instruments.choose import DEFAULT, Measures, chosen

__all__ = ["inspect"]


def inspect(
    factory: Factory,
    inputs: Inputs = None,
    batch: Batch = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, for laser-fx diff too.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    fidelity: Annotated[
        float, typer.Option(help="The share of an activation's energy that ranks are measured for, in (0, 1].")
    ] = 0.999,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to measure besides what takes seconds, again for more: dynamics, memory, onnx; or all.",
            autocompletion=measure_names,
        ),
    ] = None,
    control: Annotated[bool, typer.Option("--control", help="Also inspect a copy with weights drawn anew.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Show the loops of a model, and what low rank would do at its sites."""
    with told():
        options = Options(fidelity=fidelity)
        measures = _measures(measure)
        if html is not None:
            check_target(html, overwrite=overwrite)
        example = example_of(factory, inputs, batch, seed)
        report = laser_fx.inspect(
            example.model, example.args, example.kwargs, options=options, measure=measures, control=control
        )
        if html is not None:
            note(f"wrote {report.to_html(html, overwrite=overwrite)}")
        if as_json:
            say(json.dumps(report.to_dict(), indent=2, allow_nan=False))
        else:
            report.print()


def _measures(names: list[str] | None) -> Measures:
    """Spectra are drawn step by step on a terminal, so that they are always measured."""
    return "all" if "all" in (names or ()) else chosen(cast(Measures, (*DEFAULT, "spectra", *(names or ()))))
