"""`compile` and `inspect`: the only place that knows every room."""

from __future__ import annotations

import copy
import inspect as _python
import logging
import math
import warnings
from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import torch
from torch import fx, nn

from laser_fx.call import Call, flatten_call
from laser_fx.capture import check_finite
from laser_fx.errors import InputError, NoLoopWarning, NonFiniteError, OptionError
from laser_fx.export import OnnxFile, to_onnx
from laser_fx.loops import LoopNest, Site
from laser_fx.options import Options
from laser_fx.passes.pipeline import build_program, retrack
from laser_fx.program import Mode, Program, flat_record
from laser_fx.reporting import Report
from laser_fx.reporting.describe import describe_program

__all__ = ["CompiledModel", "compile", "inspect"]

_log = logging.getLogger("laser_fx")


class CompiledModel(nn.Module):
    """A model whose loops are rolled: the same signature, outputs, parameters and state_dict.

    Made by `compile`. Parameters and buffers are the original's own: train, load or move either one. Each combination
    of mode, grad mode, autocast, dtypes, devices and sizes is compiled when it is first called; the leading dimension
    stays free.
    """

    def __init__(self, model: nn.Module, options: Options) -> None:
        super().__init__()
        # The very dictionaries of the original, so that both always hold the same tensors under the same names.
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.training = model.training
        self.__dict__["_model"] = model
        self.__dict__["_options"] = options
        self.__dict__["_programs"] = {}
        self.__dict__["_latest"] = None
        self.__dict__["_records"] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's forward returns."""
        call = flatten_call(args, kwargs, self._argument_names())
        program = self._program_for(call)
        if not program.nest:
            return self._model(*args, **kwargs)
        output, records = program.run(call)
        self.__dict__["_latest"], self.__dict__["_records"] = program, records
        _check_records(program, call, records)
        return output

    @property
    def options(self) -> Options:
        """The options it was compiled with."""
        return self._options  # type: ignore[no-any-return]

    @property
    def program(self) -> Program:
        """The program that ran, or was compiled, last.

        Raises:
            InputError: nothing was compiled yet.
        """
        if self._latest is None:
            raise InputError(
                "nothing is compiled yet",
                where="CompiledModel",
                fix="call the model once, or pass example_inputs to compile",
            )
        return self._latest  # type: ignore[no-any-return]

    @property
    def loops(self) -> LoopNest:
        """The loop nest of the latest program."""
        return self.program.nest

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the latest program."""
        return self.program.sites

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph of the latest program."""
        return self.program.graph_module

    def report(self, *, training: bool = True) -> Report:
        """What was found, done and measured.

        Args:
            training: also measure what a training step saves for backward; this compiles the training graph of a copy.
        """
        steps = self.program.steps(self._records) if self._records else {}
        return describe_program(self.program, steps, compiled_copy if training else None)

    def to_onnx(
        self,
        path: str | PathLike[str],
        *,
        form: Literal["rolled", "unrolled"] = "rolled",
        depth_inputs: bool = True,
        verify: bool = True,
        overwrite: bool = False,
        opset: int = 20,
    ) -> OnnxFile:
        """Write the inference graph as ONNX; see `laser_fx.export.to_onnx`."""
        program = self._inference_program()
        return to_onnx(
            program,
            path,
            form=form,
            depth_inputs=depth_inputs,
            verify=verify,
            overwrite=overwrite,
            opset=opset,
        )

    def with_options(self, options: Options) -> CompiledModel:
        """The same model under other options: what was captured, proved and measured is shared, so it costs little.

        Raises:
            OptionError: another ``min_trip``, which decides what a loop is: compile anew.
        """
        if options.min_trip != self._options.min_trip:
            raise OptionError(
                f"min_trip is {options.min_trip}, it was {self._options.min_trip}",
                where="CompiledModel.with_options",
                fix="call laser_fx.compile again",
            )
        other = CompiledModel(self._model, options)
        for mode, known in self._programs.items():
            other._programs[mode] = [retrack(program, options) for program in known]
        latest = [
            kept for mode, known in self._programs.items() for kept in zip(known, other._programs[mode], strict=True)
        ]
        other.__dict__["_latest"] = next((new for old, new in latest if old is self._latest), None)
        return other

    def prepare(self, call: Call, mode: Mode) -> Program:
        """Compile for these inputs and this mode, unless that was done before."""
        known = self._programs.setdefault(mode, [])
        for program in known:
            if program.capture.accepts(call):
                return self._use(program)
        # A free leading size holds from 2 on; the second program for a single row is one of its own.
        single = call.shared_batch() == 1 and any(p.capture.dynamic for p in known)
        program = build_program(self._model, call, mode, self._options, dynamic=not single)
        known.append(program)
        if not program.nest:
            warnings.warn(_no_loop(self._model), NoLoopWarning, stacklevel=4)
        return self._use(program)

    def train(self, mode: bool = True) -> CompiledModel:
        """Set training or evaluation mode, of the original too."""
        self._model.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_model"], name)

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        return CompiledModel(copy.deepcopy(self._model, memo), self._options)

    def __reduce__(self) -> Any:
        return CompiledModel, (self._model, self._options)

    def _use(self, program: Program) -> Program:
        self.__dict__["_latest"], self.__dict__["_records"] = program, ()
        return program

    def _program_for(self, call: Call) -> Program:
        return self.prepare(call, self._mode(call))

    def _mode(self, call: Call) -> Mode:
        grad_enabled = torch.is_grad_enabled() and any(t.requires_grad for t in (*call.tensors, *self.parameters()))
        if grad_enabled and not self.training and self._options.forward == "lowrank":
            _log.info("gradients are on: this evaluation is exact; call under torch.no_grad() for the low-rank forward")
        device = call.tensors[0].device.type if call.tensors else "cpu"
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return Mode(self.training, grad_enabled, autocast)

    def _inference_program(self) -> Program:
        latest = self.program
        if not latest.mode.training and not latest.mode.grad_enabled:
            return latest
        was_training = self.training
        self.eval()
        try:
            return self.prepare(latest.capture.call, Mode(False, False, latest.mode.autocast))
        finally:
            self.train(was_training)

    def _argument_names(self) -> tuple[str, ...]:
        if "_argument_names_cache" not in self.__dict__:
            parameters = _python.signature(self._model.forward).parameters.values()
            names = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
            self.__dict__["_argument_names_cache"] = names
        return self.__dict__["_argument_names_cache"]  # type: ignore[no-any-return]


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


def compiled_copy(model: nn.Module, options: Options) -> CompiledModel:
    """A compiled copy of the model, to measure without touching the original."""
    return CompiledModel(copy.deepcopy(model), options)


def _as_tuple(inputs: Any) -> tuple[Any, ...]:
    if inputs is None:
        return ()
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _no_loop(model: nn.Module) -> str:
    return (
        f"{type(model).__name__} has no loop that shares a weight from step to step: it runs as it is."
        " laser_fx.inspect shows what was captured"
    )


def _check_records(program: Program, call: Call, records: tuple[Any, ...]) -> None:
    """Raise where a site measured NaN: name the tensor if an input or a weight is to blame, else the site and step."""
    for key, record in zip(program.record_names, records, strict=True):
        for step, stats in enumerate(flat_record(record)):
            if math.isnan(float(stats[0])):
                check_finite(program.model, call, infinities=True)
                raise NonFiniteError(
                    f"the fidelity became NaN at step {step}",
                    where=f"site {key}",
                    fix="the activation overflows inside the loop: run in float32, or look at the model's scales",
                )
