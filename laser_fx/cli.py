"""The command ``laser-fx``: the public functions, for a model that a factory makes.

A factory is named as ``package.module:function``, takes nothing and returns ``(model, example_inputs)``. Exit codes:
0; 1 where an exported file does not answer as the model, its reference batch or its other optimisation level does;
2 for every other error that laser-fx raises on purpose: a file that is missing, damaged, foreign or tampered with, say.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

import laser_fx
from laser_fx.errors import InputError, LaserError, VerificationError
from laser_fx.export import FileCheck, StatePairs, serve_config, verify_exported, write_reference
from laser_fx.files import check_target
from laser_fx.options import Options

__all__ = ["app"]

PARITY_FAILED, FAILED = 1, 2

app = typer.Typer(
    name="laser-fx",
    help="Find the loops of recursive PyTorch models, re-roll them, run them in low rank, export them as ONNX Loop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

Factory = Annotated[
    str, typer.Argument(metavar="MODULE:FACTORY", help="A function that returns (model, example_inputs).")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")]


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


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(laser_fx.__version__)
        raise typer.Exit


@app.command()
def inspect(
    factory: Factory,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Show the loops of a model, and what low rank would do at its sites."""
    with _told():
        model, inputs = _made(factory)
        report = laser_fx.inspect(model, inputs)
        if html is not None:
            _note(f"wrote {report.to_html(html, overwrite=overwrite)}")
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))
        else:
            report.print()


@app.command()
def export(
    factory: Factory,
    out: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
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
    overwrite: Overwrite = False,
) -> None:
    """Write a model as ONNX."""
    with _told():
        model, inputs = _made(factory)
        if reference is not None:
            check_target(reference, overwrite=overwrite)
        compiled = laser_fx.compile(model, example_inputs=inputs, options=_options(fidelity, exact))
        halting = _halting(halt, halt_per, halt_above)
        pairs: dict[str, Any] = {"state": _state(state)} if state else {}
        compiled.to_onnx(out, form=form.value, overwrite=overwrite, **pairs, **halting)
        _note(f"wrote {out}")
        if reference is not None:
            _note(f"wrote {write_reference(compiled.program, out, reference, overwrite=overwrite)}")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file that laser-fx wrote.")],
    reference: Annotated[Path | None, typer.Option(help="A batch that export --reference wrote.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was checked as JSON.")] = False,
) -> None:
    """Check a file against its metadata, and its answers at two optimisation levels and against a reference batch.

    Exit codes: 0 it holds; 1 it answers wrongly; 2 it is missing, damaged, foreign or tampered with.
    """
    with _told():
        checked = verify_exported(file, reference)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(checked), indent=2, default=str))
        else:
            for line in _lines(checked):
                typer.echo(line)


@app.command("serve-config")
def serve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file that laser-fx wrote.")],
    out: Annotated[Path, typer.Option(help="The model repository; other models in it stay.")] = Path(
        "model_repository"
    ),
    name: Annotated[str | None, typer.Option(help="The model's name; the file's unless given.")] = None,
    max_batch: Annotated[int, typer.Option(help="Most rows that Triton puts together; 0: none.")] = 64,
    queue_delay_us: Annotated[int, typer.Option(help="How long a request may wait for others, in microseconds.")] = 100,
    depth: Annotated[int | None, typer.Option(help="Trips of the outermost loop in the served copy.")] = None,
    fidelity: Annotated[float | None, typer.Option(help="The fidelity of the served copy.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
) -> None:
    """Write an NVIDIA Triton model repository for a file."""
    with _told():
        served = serve_config(
            file,
            out,
            name=name,
            max_batch=max_batch,
            queue_delay_us=queue_delay_us,
            depth=depth,
            fidelity=fidelity,
            overwrite=overwrite,
        )
        for note in served.notes:
            _note(f"note: {note}")
        _note(f"wrote {served.path}")


def _lines(checked: FileCheck) -> Iterator[str]:
    """What was checked, a line each."""
    yield f"{checked.path}: {checked.form}"
    yield f"  checksum: {'right' if checked.checksum else 'none, the file may have been edited'}"
    yield "  metadata: fits the graph"
    if checked.not_run is not None:
        yield f"  not run as it is, but in float32: {checked.not_run}"
    for run in checked.runs:
        yield f"  {run}: {' and '.join(checked.levels)} agree"
    for run in checked.excused:
        yield f"  not compared, a decision stood at the threshold: {run}"
    yield f"  reference: {checked.reference or 'none, so only the levels were compared with each other'}"
    yield f"  largest difference: {checked.max_error:.1e} of the largest value"
    yield "verified"


@app.command()
def demo(
    models: Annotated[
        list[str] | None, typer.Option("--model", help="A model of the zoo; again for more. All unless given.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("laser-demo"),
    puzzles: Annotated[int, typer.Option(min=1, help="How many puzzles to measure accuracy on.")] = 500,
) -> None:
    """Compile models of the zoo, compare them with eager and ONNX Runtime, and write what was found."""
    from laser_fx.demo import run  # it imports the zoo and ONNX Runtime, which the other commands do without

    with _told():
        run(models=tuple(models or ()), out=out, puzzles=puzzles)


@contextmanager
def _told() -> Iterator[None]:
    """Errors and warnings as sentences on standard error; a traceback is for defects."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _note(f"warning: {message}")
        try:
            yield
        except LaserError as error:
            _note(f"error: {error}")
            raise typer.Exit(PARITY_FAILED if isinstance(error, VerificationError) else FAILED) from error


def _note(line: str) -> None:
    typer.echo(line, err=True)


def _halting(halt: str | None, per: HaltPer, above: float) -> dict[str, Any]:
    """What differs from the defaults of `to_onnx`, which refuses what has no effect."""
    asked = {"halt": halt, "halt_per": per.value, "halt_above": above}
    return {name: value for name, value in asked.items() if value not in (None, HaltPer.BATCH.value, 0.0)}


def _options(fidelity: float | None, exact: bool) -> Options:
    if exact and fidelity is not None:
        raise InputError("--exact and --fidelity exclude each other", where="export", fix="leave one of them out")
    if exact:
        return Options.exact()
    return Options() if fidelity is None else Options(fidelity=fidelity)


def _state(pairs: list[str]) -> StatePairs | None:
    if pairs in ([], ["auto"]):
        return "auto" if pairs else None
    named = [pair.partition("=") for pair in pairs]
    if bad := next((pair for pair, (_, is_pair, _) in zip(pairs, named, strict=True) if not is_pair), None):
        raise InputError(f"--state {bad} is no pair", where="export", fix="write INPUT=OUTPUT, or auto by itself")
    return {name: following for name, _, following in named}


def _made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Model and example inputs; a lone input is made a tuple."""
    made = _factory(name)()
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        fix = "return (model, example_inputs), the inputs as a tuple"
        raise InputError(f"the factory returned {type(made).__name__}", where=name, fix=fix)
    model, inputs = made
    return model, inputs if isinstance(inputs, tuple) else (inputs,)


def _factory(name: str) -> Callable[[], object]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError("the factory has no name", where=name, fix="write it as package.module:function")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: a model in the current folder is found
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        fix = "install it, or call laser-fx in the folder that it is in"
        raise InputError(f"there is no module {error.name}", where=name, fix=fix) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise InputError(f"{module_name} has no function {attribute}", where=name, fix="name a function of that module")
    factory: Callable[[], object] = found
    return factory
