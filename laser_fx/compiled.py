"""The module that `laser_fx.compile` returns."""

from __future__ import annotations

import inspect as _python
import logging
import sys
import warnings
from collections.abc import Callable
from functools import cache
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import fx, nn

from laser_fx.alarms import Alarms
from laser_fx.calibration import Calibration
from laser_fx.call import Call, flatten_call
from laser_fx.errors import InputError, NoLoopWarning, OptionError
from laser_fx.events import tell
from laser_fx.export import OnnxFile, StatePairs, to_onnx
from laser_fx.fingerprint import Fingerprint, fingerprint
from laser_fx.loops import LoopNest, Site, Step
from laser_fx.memory.copies import copied
from laser_fx.memory.plan import Plan, plan_of
from laser_fx.options import Options
from laser_fx.passes.cut_segments import bases_of, segments_of, tracked_in
from laser_fx.passes.near_miss import near_misses_of
from laser_fx.program import Mode, Program
from laser_fx.programs import Programs, mode_of, run
from laser_fx.reporting import Report
from laser_fx.reporting.describe import describe_program
from laser_fx.reporting.instruments.choose import DEFAULT, Measures, chosen
from laser_fx.reporting.instruments.modes import evaluating
from laser_fx.standin import StandIn

__all__ = ["CompiledModel", "compiled_copy", "unchecked"]


class CompiledModel(StandIn):
    """A model whose loops are rolled: the same signature, outputs, parameters and state_dict.

    Made by `compile`. Parameters and buffers are the original's own: train, load or move either one. Each combination
    of mode, grad mode, autocast, dtypes, devices and sizes is compiled when it is first called; the leading dimension
    stays free. So is a model that changed: its code, its submodules, a plain attribute that its code names. What a
    change cannot be seen in is listed at `laser_fx.fingerprint.fingerprint`.

    Hooks of the compiled model run at every call. Forward hooks on its submodules are a part of what is compiled: what
    they return counts, and what else they do happens while compiling only. Inside ``torch.export(strict=False)``,
    inside transforms of `torch.func`, and for tensors that hold no data or are of a subclass, it is the model that it
    was made from. Code under `torch.compile` calls it between two graphs: where there must be one, it is refused.
    """

    def __init__(self, model: nn.Module, options: Options, calibration: Calibration | None = None) -> None:
        super().__init__(model)
        if options.forward == "lowrank":
            _check_basis(options, calibration)
        self.__dict__["_programs"] = Programs(model, options, calibration)
        self.__dict__["_latest"] = None
        self.__dict__["_records"] = ()
        self.__dict__["_alarms"] = Alarms()
        self.__dict__["_untraced"] = _untraced()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's forward returns."""
        return self._untraced(self, args, kwargs)

    @property
    def options(self) -> Options:
        """The options it was compiled with."""
        return self._programs.options  # type: ignore[no-any-return]

    @property
    def calibration(self) -> Calibration | None:
        """The frozen bases it was given."""
        return self._programs.calibration  # type: ignore[no-any-return]

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
    def is_compiled(self) -> bool:
        """Whether there is a program yet."""
        return self._latest is not None

    @property
    def latest_steps(self) -> dict[str, tuple[Step, ...]]:
        """What each step at each site measured and did in the latest call, by the site's key; empty without bases."""
        steps = self.program.steps(self._records) if self._records else {}
        return steps | {tracked.site: tracked.steps for tracked in tracked_in(self.program.graph_module)}

    @property
    def loops(self) -> LoopNest:
        """The loop nest of the latest program."""
        return self.program.nest

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of the latest program."""
        return self.program.sites

    @property
    def plan(self) -> Plan | None:
        """What the latest program keeps for backward, value by value; None where no memory plan was asked for."""
        segments = segments_of(self.program.graph_module)
        return plan_of(segments, self.program.gradient_error) if segments else None

    @property
    def bases(self) -> nn.ModuleDict:
        """The tracked bases of the latest training program: site → its `laser_fx.memory.tracked.Tracked`.

        Empty unless values are kept in low rank from call to call, as with ``Options(tracking="segment")``. Their
        ``state_dict`` belongs into a checkpoint where a resumed run should go on as it would have; without it the first
        call makes new ones. They are this process's own: in distributed training each rank tracks what it sees.
        """
        found = (bases_of(known.graph_module) for known in reversed(list(self._programs)))
        return next((bases for bases in found if bases), nn.ModuleDict())

    @property
    def graph_module(self) -> fx.GraphModule:
        """The graph of the latest program."""
        return self.program.graph_module

    def report(self, *, training: bool = True, measure: Measures = DEFAULT) -> Report:
        """What was found, done and measured.

        Args:
            training: also measure what a training step saves for backward; this compiles the training graph of a copy.
                Without it, ``"memory"`` is not measured either.
            measure: what to measure besides sites and totals, as for `laser_fx.inspect`.

        Raises:
            OptionError: ``measure`` names something that there is not.
        """
        measures = chosen(measure)
        door = unchecked(self._inference_aside)
        return describe_program(self.program, self.latest_steps, compiled_copy if training else None, measures, door)

    def to_onnx(
        self,
        path: str | PathLike[str],
        *,
        form: Literal["rolled", "functions", "step", "unrolled"] = "rolled",
        depth_inputs: bool = True,
        verify: bool = True,
        overwrite: bool = False,
        opset: int = 20,
        external_data: bool | None = None,
        halt: str | None = None,
        halt_per: Literal["batch", "example"] = "batch",
        halt_above: float = 0.0,
        state: StatePairs | None = None,
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
            external_data=external_data,
            halt=halt,
            halt_per=halt_per,
            halt_above=halt_above,
            state=state,
        )

    def with_options(self, options: Options) -> CompiledModel:
        """The same model under other options: what was captured, proved and measured is shared, so it costs little.

        Raises:
            OptionError: another ``min_trip``, which decides what a loop is, or other ``free_sizes``: compile anew.
        """
        for name in ("min_trip", "free_sizes"):
            before, after = getattr(self.options, name), getattr(options, name)
            if before != after:
                raise OptionError(
                    f"{name} is {after}, it was {before}",
                    where="CompiledModel.with_options",
                    fix="call laser_fx.compile again",
                )
        other = CompiledModel(self._model, options, self.calibration)
        other._take(self, self._programs.under(options))
        return other

    def prepare(self, call: Call, mode: Mode) -> Program:
        """Compile for these inputs and this mode, unless that was done before."""
        state = fingerprint(self._model)
        return self._use(self._programs.find(state, call, mode) or self._compile(state, call, mode))

    def _replicate_for_data_parallel(self) -> CompiledModel:
        raise InputError(
            "a compiled model cannot be replicated: every replica would run the weights of the first device",
            where="torch.nn.DataParallel",
            fix="use torch.nn.parallel.DistributedDataParallel, or compile inside of each process",
        )

    def _twin(self, model: nn.Module) -> CompiledModel:
        other = CompiledModel(model, self.options, self.calibration)
        other._take(self, self._programs.of(model))
        return other

    def __reduce__(self) -> Any:
        return CompiledModel, (self._model, self.options, self.calibration), self._hooks()

    def _take(self, other: CompiledModel, programs: Programs) -> None:
        """Take over the programs of another one, in the same order."""
        self.__dict__["_programs"] = programs
        pairs = zip(other._programs, programs, strict=True)
        self.__dict__["_latest"] = next((mine for theirs, mine in pairs if theirs is other._latest), None)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = fingerprint(self._model)
        call = flatten_call(args, kwargs, self._argument_names())
        if _is_left_to_the_model(call) or (state.backward_hooks and torch.is_grad_enabled()):
            return self._model(*args, **kwargs)
        mode = self._mode(call, state)
        program = self._programs.find(state, call, mode)
        if program is None and not self._programs.full():
            program = self._compile(state, call, mode)
            if program.nest and not program.capture.accepts(call):  # it was captured on two rows instead of the one
                program = self._compile(state, call, mode, dynamic=False)
        if program is None or not self._use(program).nest:
            return self._model(*args, **kwargs)
        output, self.__dict__["_records"] = run(program, call)
        if program.mode.grad_enabled and self._records:
            self._alarms.check(program.steps(self._records), self.options.reset_alarm)
        return output

    def _compile(self, state: Fingerprint, call: Call, mode: Mode, *, dynamic: bool = True) -> Program:
        program = self._programs.compile(state, call, mode, parameters=self._argument_names(), dynamic=dynamic)
        if not program.nest:
            warnings.warn(_no_loop(program), NoLoopWarning, stacklevel=_callers_level())
        return program  # type: ignore[no-any-return]

    def _use(self, program: Program) -> Program:
        self.__dict__["_latest"], self.__dict__["_records"] = program, ()
        return program

    def _mode(self, call: Call, state: Fingerprint) -> Mode:
        mode = mode_of(call, training=self.training, trainable=state.trainable)
        if mode.grad_enabled and not mode.training and self.options.forward == "lowrank":
            sentence = "gradients are on: this evaluation is exact; call under torch.no_grad() for the low-rank forward"
            tell(logging.INFO, "exact_forward", sentence)
        return mode

    def _inference_program(self) -> Program:
        latest = self.program
        if not latest.mode.training and not latest.mode.grad_enabled:
            return latest
        with evaluating(self._model):
            return self.prepare(latest.capture.call, Mode(False, False, latest.mode.autocast))

    def _inference_aside(self) -> Program:
        """The same, and the latest program stays the latest one."""
        before = {name: self.__dict__[name] for name in ("_latest", "_records")}
        try:
            return self._inference_program()
        finally:
            self.__dict__.update(before)

    def _argument_names(self) -> tuple[str, ...]:
        return _positional(self._model.forward)


def _check_basis(options: Options, calibration: Calibration | None) -> None:
    if options.basis == "tracked":
        return
    if calibration is None:
        raise OptionError(
            f"basis is {options.basis!r}, and there is no calibration",
            where="Options.basis",
            fix="pass calibration=laser_fx.calibrate(model, data) to compile",
        )
    if options.basis == "frozen" and any(found.is_per_step for found in calibration.bases.values()):
        raise OptionError(
            "basis is 'frozen', and the calibration has bases for each step",
            where="Options.basis",
            fix="choose basis='per_step', or calibrate with basis='frozen'",
        )


def compiled_copy(model: nn.Module, options: Options) -> CompiledModel:
    """A compiled copy of the model, to measure without touching the original."""
    return CompiledModel(copied(model), options)


def unchecked(program: Callable[[], Program]) -> Callable[[Path, str], OnnxFile]:
    """Writes a program as ONNX and does not compare the file with it: for its size."""
    return lambda path, form: to_onnx(program(), path, form=form, verify=False)  # type: ignore[arg-type]


@cache
def _untraced() -> Any:
    """How a compiled model is called: as it is, and from outside of graphs that torch.compile makes.

    Made when it is needed: it imports dynamo, which takes a second.
    """
    return torch.compiler.disable(
        lambda compiled, args, kwargs: compiled._call(args, kwargs),
        reason="a model that laser_fx compiled is compiled already: it runs between two graphs",
    )


def _is_left_to_the_model(call: Call) -> bool:
    """Whether no program is for this call: torch.export, torch.func, tensors without data or of a subclass."""
    if torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
        return True
    return any(tensor.is_meta or type(tensor) not in (torch.Tensor, nn.Parameter) for tensor in call.tensors)


def _positional(forward: Any) -> tuple[str, ...]:
    """Names of the positional arguments."""
    kinds = (_python.Parameter.POSITIONAL_ONLY, _python.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in _python.signature(forward).parameters.values() if p.kind in kinds)


def _callers_level() -> int:
    """How far up the stack the first frame is that is neither torch's nor ours, as `warnings.warn` counts."""
    inner = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_code.co_filename.startswith(inner):
        frame, level = frame.f_back, level + 1
    return level


def _no_loop(program: Program) -> str:
    if program.certificate is None:
        return f"{type(program.model).__name__} runs as it is: {program.notes[-1]}"
    sentence = f"{type(program.model).__name__} has no loop that shares a weight from step to step: it runs as it is."
    nearest = near_misses_of(program, at_most=1)
    return f"{sentence} {nearest[0]}" if nearest else f"{sentence} laser_fx.inspect shows what was captured"
