"""``laser-fx export``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import laser_fx
from laser_fx.cli.arguments import Batch, Factory, Inputs, Overwrite, Seed, example_of, options_of
from laser_fx.cli.told import note, told
from laser_fx.errors import InputError
from laser_fx.export import StatePairs, write_reference
from laser_fx.files import check_target

__all__ = ["export"]


class Form(StrEnum):
    """How loops are written."""

    ROLLED = "rolled"
    FUNCTIONS = "functions"
    STEP = "step"
    UNROLLED = "unrolled"


class HaltPer(StrEnum):
    """Whose answers are of which step."""

    BATCH = "batch"
    EXAMPLE = "example"


def export(
    factory: Factory,
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
    inputs: Inputs = None,
    batch: Batch = None,
    seed: Seed = 0,
    form: Annotated[
        Form,
        typer.Option(help="Loops as ONNX Loop, as calls of functions, as one step, or written out."),
    ] = Form.ROLLED,
    fidelity: Annotated[float | None, typer.Option(help="No step uses a basis that measures below it.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Change no number: no low rank.")] = False,
    reference: Annotated[
        Path | None, typer.Option(help="Also keep a few rows and the model's answers, for laser-fx verify.")
    ] = None,
    halt: Annotated[
        str | None, typer.Option(help="End the outermost loop early, where this output says that all are done.")
    ] = None,
    halt_per: Annotated[
        HaltPer, typer.Option(help="All answer as of one step, or each row of its own.")
    ] = HaltPer.BATCH,
    halt_above: Annotated[float, typer.Option(help="The logit above which an example is done.")] = 0.0,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="With --form step, for a model whose call is one step: what is carried, again for more; or auto.",
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="Of the ONNX standard; 20 where it is not given.")] = None,
    external_data: Annotated[
        bool, typer.Option("--external-data", help="Weights in a file beside, as they are above a gigabyte anyway.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model as ONNX."""
    with told():
        options = options_of(fidelity, exact, where="export")
        check_target(out, overwrite=overwrite)
        if reference is not None:
            check_target(reference, overwrite=overwrite)
        pairs: dict[str, Any] = {"state": _state(state)} if state else {}
        example = example_of(factory, inputs, batch, seed)
        compiled = laser_fx.compile(example.model, example.args, example.kwargs, options=options)
        asked = {"halt": halt, "halt_per": halt_per.value, "halt_above": halt_above, "opset": opset}
        stated = _stated({**asked, "external_data": external_data})
        compiled.to_onnx(out, form=form.value, overwrite=overwrite, **pairs, **stated)
        note(f"wrote {out}")
        if reference is not None:
            note(f"wrote {write_reference(compiled.program, out, reference, overwrite=overwrite)}")


def _stated(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults of `to_onnx`, which refuses what has no effect."""
    defaults = {"halt_per": HaltPer.BATCH.value, "halt_above": 0.0, "external_data": False}
    return {name: value for name, value in asked.items() if value != defaults.get(name)}


def _state(pairs: list[str]) -> StatePairs | None:
    if pairs in ([], ["auto"]):
        return "auto" if pairs else None
    named = [pair.partition("=") for pair in pairs]
    if bad := next((pair for pair, (_, is_pair, _) in zip(pairs, named, strict=True) if not is_pair), None):
        raise InputError(f"--state {bad} is no pair", where="export", fix="write INPUT=OUTPUT, or auto by itself")
    return {name: following for name, _, following in named}
