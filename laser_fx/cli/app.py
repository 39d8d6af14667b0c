"""The commands, put together. ``docs/cli.md`` is written from what they say of themselves."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import laser_fx
from laser_fx.cli.bench import bench
from laser_fx.cli.demo import demo
from laser_fx.cli.diff import diff
from laser_fx.cli.export import export
from laser_fx.cli.inspect import inspect
from laser_fx.cli.serve_config import serve
from laser_fx.cli.verify import verify
from laser_fx.reporting.terminal import spell_out

__all__ = ["app"]


class _Commands(TyperGroup):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Help and errors in the arguments are printed before any command is asked."""
        spell_out(sys.stdout, sys.stderr)
        return super().main(*args, **kwargs)


app = typer.Typer(
    name="laser-fx",
    cls=_Commands,
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
