"""`compile`, `inspect` and `calibrate`: the public functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from laser_fx.calibration import Calibration, Objective, RankShare
from laser_fx.calibrator import BasisKind, Target
from laser_fx.calibrator import calibrate as search
from laser_fx.call import Call, flatten_call
from laser_fx.compiled import CompiledModel, compiled_copy, unchecked
from laser_fx.errors import InputError, OptionError
from laser_fx.loops import Site
from laser_fx.options import Options, Sites
from laser_fx.program import Mode
from laser_fx.programs import autocast_of
from laser_fx.reporting import Report
from laser_fx.reporting.describe import describe_program
from laser_fx.reporting.instruments.choose import DEFAULT, OF_WEIGHTS, Measure, Measures
from laser_fx.reporting.instruments.choose import chosen as chosen_measures
from laser_fx.reporting.instruments.control import redrawn
from laser_fx.reporting.instruments.modes import evaluating

__all__ = ["CompiledModel", "calibrate", "compile", "inspect"]


def compile(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
    calibration: Calibration | None = None,
) -> CompiledModel:
    """Compile a recursive model: find its weight-shared loops, roll them, and track the subspaces of their activations.

    Args:
        model: any `torch.nn.Module` that `torch.export` can trace. It is shared, not copied.
        example_inputs: positional arguments to compile for at once; without them the first call compiles.
            Ranks that are found by measurement (``Options(rank=None)``) are found on these: make them representative.
        example_kwargs: keyword arguments to go with them.
        options: see `Options`; `Options.exact()` changes no number.
        calibration: what `calibrate` found; used with ``Options(basis="frozen")`` and ``"per_step"``.

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
    _check_model(model, "compile(model)")
    _check_options(options, "compile(options)")
    compiled = CompiledModel(model, options or Options(), calibration)
    if example_inputs is not None or example_kwargs is not None:
        call = flatten_call(_as_tuple(example_inputs), example_kwargs or {}, compiled._argument_names())
        _check_data(model, call)
        compiled.prepare(call, Mode(model.training, model.training, autocast_of(call)))
    return compiled


def inspect(
    model: nn.Module,
    example_inputs: tuple[Any, ...] | Any,
    example_kwargs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
    measure: Measures = DEFAULT,
    control: bool = False,
) -> Report:
    """Find the loops and sites of a model and measure its activations, rewriting nothing.

    Args:
        model: as for `compile`; it is inspected as an evaluation runs it.
        example_inputs: positional arguments; spectra, FLOPs and bytes are measured on them.
        example_kwargs: keyword arguments to go with them.
        options: only ``fidelity`` and ``min_trip`` matter: what the ranks are measured for, and what counts as a loop.
        measure: what to measure besides sites and totals, ``"all"`` or names. The default adds about a tenth to
            what inspecting takes: ``"picture"``, the rolled graph to be drawn, and ``"trajectories"`` of all carries.
            ``"spectra"``, of the activation of every step, takes up to a minute or so; ``"dynamics"``, leading
            eigenvalues of each loop body's Jacobian, some hundred forward calls for each step that is measured;
            ``"memory"``, what a training step holds, by class of operator and plan, compiles three training graphs;
            ``"onnx"``, sizes of files, exports four times.
        control: also inspect a copy with weights drawn anew, by each module's ``reset_parameters``: what of all this
            is the structure's and not learned. Its ``"picture"``, ``"memory"`` and ``"onnx"`` are the model's own.

    Raises:
        OptionError: ``measure`` names something else.

    >>> import torch
    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = nn.Linear(8, 8)
    ...     def forward(self, z):
    ...         for _ in range(4):
    ...             z = torch.tanh(self.linear(z))
    ...         return z
    >>> report = inspect(Looped(), torch.ones(4, 8), measure="dynamics", control=True)
    >>> report.dynamics[0].contracting, len(report.control.dynamics[0].steps)
    (True, 4)
    """
    _check_model(model, "inspect(model)")
    _check_options(options, "inspect(options)")
    chosen = options or Options()
    measures = chosen_measures(measure)
    exact = Options.exact(fidelity=chosen.fidelity, min_trip=chosen.min_trip, free_sizes=chosen.free_sizes)
    inputs = _as_tuple(example_inputs)
    report = _inspected(model, inputs, example_kwargs, exact, measures)
    if not control:
        return report
    untrained, kept = redrawn(model)
    beside = _inspected(untrained, inputs, example_kwargs, exact, [m for m in measures if m in OF_WEIGHTS])
    warnings = (f"the control keeps what is in {', '.join(kept)}: no reset_parameters there",) if kept else ()
    return replace(report, control=beside, warnings=(*report.warnings, *warnings))


def _inspected(
    model: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    options: Options,
    measures: Sequence[Measure],
) -> Report:
    # Counting and exporting run the model, which may draw.
    with evaluating(model), torch.random.fork_rng(_cuda_devices(model)):
        compiled = compile(model, inputs, kwargs, options=options)
        return describe_program(
            compiled.program, {}, compiled_copy, measures, export=unchecked(lambda: compiled.program)
        )


def calibrate(
    model: nn.Module,
    data: Iterable[Any],
    *,
    target: Target = "agreement",
    tolerance: float = 0.01,
    answers: Iterable[Tensor] | None = None,
    basis: BasisKind = "frozen",
    objectives: Sequence[Objective] = ("activation", "output", "answer"),
    rank_schedules: Sequence[tuple[RankShare, ...]] | Literal["search"] = (),
    exact_sites: Collection[str] | Callable[[Site], bool] = (),
    sites: Sites = "paying",
) -> Calibration:
    """Find bases with which a model answers as before, in fewer operations.

    A site is computed through a basis of what it takes (``"activation"``), of what it gives (``"output"``), or of what
    the answer depends on of that (``"answer"``). Each site's rank is chosen by what leaving out the rest would do to
    the answer, as gradients on some examples tell; then the operations of all sites are lowered end to end, as far as
    the predictions allow. Predictions are the largest entries of the last dimension of the first floating output; an
    example counts if all of them are right.

    Examples serve three purposes, a third of the batches each, in order: bases are made and settings compared on the
    first; a setting is believed when the second shows, by a one-sided bound of 95 % on the paired difference, that it
    loses no more than ``tolerance``; what is reported was measured on the third. Progress is logged by ``laser_fx``.

    Args:
        model: evaluated as ``model.eval()``; it is shared, not copied.
        data: batches of one shape, each the positional arguments of one call, at least three.
        target: ``"agreement"``: predictions should be the exact model's; ``"accuracy"``: they should be right.
        tolerance: the share of examples that may be lost, in (0, 1).
        answers: the right predictions of every batch, (batch, …), for ``"accuracy"``.
        basis: ``"per_step"`` also tries one basis for each step of the loops.
        objectives: those to try, alone, and activation and output mixed by site.
        rank_schedules: those to try with the best family, see `Options`; ``"search"`` finds out how many of the last
            steps should be exact, or have more columns than the steps before. It splits the loop of an exported file.
        exact_sites: keys of sites that stay exact, or what says so of a site.
        sites: ``"paying"`` leaves a site exact where the cost model finds no basis that keeps the answers faster than
            the linear, at the sizes of ``data``: give batches as large as those that will be served; ``"all"`` asks for
            fewer operations alone.

    Raises:
        InputError: too little data to show anything, batches or answers that do not fit together, predictions of one
            class, a model without a site, or one without an output to predict from.
        NonFiniteError: NaN in a batch, or in what the exact model makes of it.
        OptionError: an argument out of its range.

    >>> import torch
    >>> class Looped(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
    ...     def forward(self, x):
    ...         for _ in range(3):
    ...             x = x + self.down(torch.relu(self.up(x)))
    ...         return x
    >>> data = [torch.randn(64, 2) @ torch.eye(2, 8) for _ in range(6)]
    >>> model = Looped()
    >>> found = calibrate(model, data, tolerance=0.05, sites="all")  # it is too small to become faster
    >>> found.flops_share <= 1.0
    True
    >>> compiled = compile(model.eval(), (data[0],), options=Options(basis="frozen"), calibration=found)
    """
    return search(
        model,
        data,
        target,
        tolerance,
        answers,
        basis=basis,
        objectives=objectives,
        rank_schedules=rank_schedules,
        exact_sites=exact_sites,
        sites=sites,
    )


def _check_model(model: object, where: str) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model is a {type(model).__name__}", where=where, fix="pass a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        fix = "pass the module that it was made from"
        raise InputError("the model is TorchScript, which torch.export does not take", where=where, fix=fix)
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            fix = "call the model once: that makes its lazy modules"
            raise InputError(f"{name} is not made yet", where=where, fix=fix)


def _check_options(options: object, where: str) -> None:
    if options is not None and not isinstance(options, Options):
        raise OptionError(f"options is a {type(options).__name__}", where=where, fix="pass laser_fx.Options")


def _check_data(model: nn.Module, call: Call) -> None:
    """What is measured, and looked through for NaN, has to have values."""
    named = (*zip(call.names, call.tensors, strict=True), *model.named_parameters(), *model.named_buffers())
    for name, tensor in named:
        if tensor.is_meta:
            fix = "pass tensors with values; a model is given memory by model.to_empty(device=…), and then its weights"
            raise InputError(f"{name} is on the device meta and has no values", where=type(model).__name__, fix=fix)


def _cuda_devices(model: nn.Module) -> list[int]:
    """Those whose state of random numbers a call may change."""
    return sorted({p.device.index or 0 for p in (*model.parameters(), *model.buffers()) if p.device.type == "cuda"})


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    if inputs is None:
        return ()
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
