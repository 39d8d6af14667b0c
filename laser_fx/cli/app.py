"""The commands, put together. ``docs/cli.md`` is written from what they say of themselves."""

from __future__ import annotations

from typing import Annotated

import typer

import laser_fx
from laser_fx.cli.bench import bench
from laser_fx.cli.demo import demo
from laser_fx.cli.diff import diff
from laser_fx.cli.export import export
from laser_fx.cli.inspect import inspect
from laser_fx.cli.serve_config import serve
from laser_fx.cli.verify import verify

__all__ = ["app"]

app = typer.Typer(
    name="laser-fx",
    help="Find the loops of recursive PyTorch models, re-roll them, run them in low rank, export them as ONNX Loop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # what is no defect is a sentence, see `laser_fx.cli.told`
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(laser_fx.__version__)
        raise typer.Exit


app.command()(inspect)
app.command()(export)
app.command()(verify)
app.command("serve-config")(serve)
app.command()(diff)
app.command()(bench)
app.command()(demo)
