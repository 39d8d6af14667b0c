"""``laser-fx demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laser_fx.cli.complete import trained_models
from laser_fx.cli.told import told

__all__ = ["demo"]


def demo(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A model of the zoo; again for more. All unless given.",
            autocompletion=trained_models,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("laser-demo"),
    puzzles: Annotated[int, typer.Option(min=1, help="How many puzzles to measure accuracy on.")] = 500,
) -> None:
    """Compile models of the zoo, compare them with eager and ONNX Runtime, and write what was found."""
    with told():
        from laser_fx.demo import run  # it imports the zoo and ONNX Runtime, which the other commands do without

        run(models=tuple(models or ()), out=out, puzzles=puzzles)
