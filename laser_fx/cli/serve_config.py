"""``laser-fx serve-config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from laser_fx.cli.told import note, told
from laser_fx.export import serve_config

__all__ = ["serve"]


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
    with told():
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
        for line in served.notes:
            note(f"note: {line}")
        note(f"wrote {served.path}")
