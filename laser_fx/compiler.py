"""`compile` and `inspect`: the public functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from laser_fx.call import flatten_call
from laser_fx.compiled import CompiledModel, compiled_copy
from laser_fx.errors import InputError, OptionError
from laser_fx.options import Options
from laser_fx.program import Mode
from laser_fx.reporting import Report
from laser_fx.reporting.describe import describe_program

__all__ = ["CompiledModel", "compile", "inspect"]


def compile(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
) -> CompiledModel:
    """Compile a recursive model: find its weight-shared loops, roll them, and track the subspaces of their activations.

    Args:
        model: any `torch.nn.Module` that `torch.export` can trace. It is shared, not copied.
        example_inputs: positional arguments to compile for at once; without them the first call compiles.
            Ranks that are found by measurement (``Options(rank=None)``) are found on these: make them representative.
        example_kwargs: keyword arguments to go with them.
        options: see `Options`; `Options.exact()` changes no number.

    Returns:
        A module to use in the model's place.

    Raises:
        InputError: ``model`` is no module, or its forward fails on the example inputs.
        CaptureError: the model cannot be captured as one graph.
        NonFiniteError: a weight or an input is not finite.

    >>> import torch
    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
    ...     def forward(self, x, z):
    ...         for _ in range(5):
    ...             z = z + self.down(torch.relu(self.up(x + z)))
    ...         return z
    >>> x = torch.ones(4, 8)
    >>> compiled = compile(Looped().eval(), (x, x), options=Options.exact())
    >>> compiled.loops.trips()
    ((0, 5),)
    >>> [site.name for site in compiled.sites]
    ['up', 'down']
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}", where="compile(model)", fix="pass a torch.nn.Module")
    if options is not None and not isinstance(options, Options):
        raise OptionError(
            f"options is a {type(options).__name__}", where="compile(options)", fix="pass laser_fx.Options"
        )
    compiled = CompiledModel(model, options or Options())
    if example_inputs is not None or example_kwargs is not None:
        call = flatten_call(_as_tuple(example_inputs), example_kwargs or {}, compiled._argument_names())
        compiled.prepare(call, Mode(model.training, model.training, None))
    return compiled


def inspect(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
) -> Report:
    """Find the loops and sites of a model and measure its activations, rewriting nothing.

    Args:
        model: as for `compile`; it is inspected as an evaluation runs it.
        example_inputs: positional arguments; spectra, FLOPs and bytes are measured on them.
        example_kwargs: keyword arguments to go with them.
        options: only ``fidelity`` and ``min_trip`` matter: what the ranks are measured for, and what counts as a loop.
    """
    chosen = options or Options()
    exact = Options.exact(fidelity=chosen.fidelity, min_trip=chosen.min_trip)
    was_training = model.training
    model.eval()
    try:
        compiled = compile(model, _as_tuple(example_inputs), example_kwargs, options=exact)
        return describe_program(compiled.program, {}, compiled_copy)
    finally:
        model.train(was_training)


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    if inputs is None:
        return ()
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
