"""Arguments that several commands have, and the example that they stand for."""

from __future__ import annotations

from typing import Annotated

import typer

from laser_fx.cli.complete import factory_names
from laser_fx.cli.example import Example, ready
from laser_fx.cli.factories import made
from laser_fx.cli.inputs import given_inputs
from laser_fx.errors import InputError
from laser_fx.options import Options

__all__ = ["Batch", "Factory", "Inputs", "Overwrite", "Seed", "example_of", "options_of"]

Factory = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:FACTORY",
        help="A function that returns (model, example_inputs), or the model alone with --inputs; or zoo.NAME.",
        autocompletion=factory_names,
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="A tensor as float32[4,81,256] or tokens=int64[4,36]:0..10, again for more; or a safetensors file.",
    ),
]
Batch = Annotated[
    int | None,
    typer.Option(min=1, help="The size that --inputs writes as B, and the batch of a factory that takes one."),
]
Seed = Annotated[int, typer.Option(help="Of the inputs that are made, and of the factory's random weights.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")]


def example_of(factory: str, inputs: list[str] | None, batch: int | None, seed: int) -> Example:
    """The model and the arguments that a command works on.

    Raises:
        InputError: the factory cannot be imported or fails, or the inputs do not fit the model.
    """
    found = made(factory, batch=batch, seed=seed, batch_is_used=bool(inputs))
    if inputs:
        return ready(found.model, given_inputs(inputs, batch=batch, seed=seed))
    if found.inputs is None:
        raise InputError(
            f"the factory returned {type(found.model).__name__} alone, without example inputs",
            where=factory,
            fix="return (model, example_inputs), the inputs as a tuple, or pass --inputs float32[4,81,256]",
        )
    return Example(found.model, found.inputs)


def options_of(fidelity: float | None, exact: bool, *, where: str) -> Options:
    """The options that ``--fidelity`` and ``--exact`` ask for.

    Raises:
        InputError: both were given.
        OptionError: a fidelity out of its range.
    """
    if exact and fidelity is not None:
        raise InputError("--exact and --fidelity exclude each other", where=where, fix="leave one of them out")
    if exact:
        return Options.exact()
    return Options() if fidelity is None else Options(fidelity=fidelity)
