"""The programs of one model: which one answers a call, and why another one is compiled."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import nn

from laser_fx.cache import plain_values, program_for
from laser_fx.calibration import Calibration
from laser_fx.call import Call
from laser_fx.capture import check_finite
from laser_fx.errors import NonFiniteError
from laser_fx.events import is_told, tell
from laser_fx.fingerprint import Fingerprint
from laser_fx.options import Options
from laser_fx.passes.cut_segments import bases_of, segments_of
from laser_fx.passes.freeze import freeze
from laser_fx.passes.infra import count_nodes
from laser_fx.passes.pipeline import retrack
from laser_fx.program import Mode, Program, flat_record
from laser_fx.reasons import causes

__all__ = ["LIMIT", "Programs", "autocast_of", "mode_of", "run"]

LIMIT = 64
"""Programs of one compiled model; calls that would need one more run as they are."""


class _Known(NamedTuple):
    state: Fingerprint
    mode: Mode
    values: tuple[Any, ...]
    program: Program

    def accepts(self, mode: Mode, values: tuple[Any, ...], call: Call) -> bool:
        return self.mode == mode and self.values == values and self.program.capture.accepts(call)


class Programs:
    """The programs of a model under one set of options, compiled as calls ask for them.

    Args:
        model: the model.
        options: what its programs may do.
        calibration: bases for ``Options(basis="frozen")`` and ``"per_step"``.
    """

    def __init__(self, model: nn.Module, options: Options, calibration: Calibration | None = None) -> None:
        self.model, self.options, self.calibration = model, options, calibration
        self._known: list[_Known] = []
        self._causes: Counter[str] = Counter()
        self._told = False

    def __iter__(self) -> Iterator[Program]:
        return (known.program for known in self._known)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, state: Fingerprint, call: Call, mode: Mode) -> Program | None:
        """The program that answers this call, None if there is none yet."""
        values = plain_values(call)
        fitting = [known for known in self._known if known.accepts(mode, values, call)]
        same = next((known for known in fitting if known.state.identical(state)), None)
        found = same or next((known for known in fitting if known.state == state), None)
        return found and found.program

    def compile(
        self, state: Fingerprint, call: Call, mode: Mode, *, parameters: Sequence[str] = (), dynamic: bool = True
    ) -> Program:
        """Compile for this call, saying why if it is not the first time.

        Args:
            state: the model's fingerprint.
            call: the inputs.
            mode: training flag, grad mode and autocast.
            parameters: names of the positional arguments of forward.
            dynamic: leave the shared leading dimension free.
        """
        self._explain(state, call, mode, parameters)
        like = [known.program for known in self._known if known.mode == mode and known.state == state]
        # A free leading size holds from 2 on; the second program for a single row is one of its own.
        single = call.shared_batch() == 1 and any(program.capture.dynamic for program in like)
        began = perf_counter()
        program = self._frozen(program_for(self.model, state, call, mode, self.options, dynamic=dynamic and not single))
        _tell_compiled(program, perf_counter() - began)
        self._known.append(_Known(state, mode, plain_values(call), program))
        return program

    def full(self) -> bool:
        """Whether the limit is reached; the first time that it is, a warning says what kept changing."""
        if len(self._known) < LIMIT:
            return False
        if not self._told:
            self._told = True
            (thing, times), *_ = self._causes.most_common(1) or [("something", 0)]
            model, count = type(self.model).__name__, len(self._known)
            tell(
                logging.WARNING,
                "programs_full",
                "%s has %d programs, and calls that need another one run as they are from here on: %s changed %d times",
                model,
                count,
                thing,
                times,
                model=model,
                programs=count,
                cause=thing,
                times=times,
            )
        return True

    def under(self, options: Options) -> Programs:
        """The same programs under other options, with the same ``min_trip``."""
        other = Programs(self.model, options, self.calibration)
        other._known = [known._replace(program=other._frozen(retrack(known.program, options))) for known in self._known]
        return other

    def of(self, model: nn.Module) -> Programs:
        """The same programs for a copy of the model."""
        other = Programs(model, self.options, self.calibration)
        other._known = [known._replace(program=_of(model, known.program)) for known in self._known]
        return other

    def _frozen(self, program: Program) -> Program:
        """An evaluation with the calibration's bases, where they are asked for."""
        wanted = self.options.forward == "lowrank" and self.options.basis != "tracked"
        is_evaluation = not (program.mode.grad_enabled or program.mode.training)
        if self.calibration is None or not (wanted and is_evaluation and program.nest):
            return program
        return freeze(program, self.calibration)

    def _explain(self, state: Fingerprint, call: Call, mode: Mode, parameters: Sequence[str]) -> None:
        """Log what changed since the latest program, of this mode if there is one; each thing once."""
        if not self._known:
            return
        nearest = next((known for known in reversed(self._known) if known.mode == mode), self._known[-1])
        found = causes(nearest.program.capture, (nearest.state, state), (nearest.mode, mode), call, parameters)
        news = [cause for cause in found if cause.thing not in self._causes]
        self._causes.update(cause.thing for cause in found)
        told = [str(cause) for cause in news or found]
        level, model = logging.INFO if news else logging.DEBUG, type(self.model).__name__
        tell(level, "recompiling", "recompiling: %s", "; ".join(told), model=model, causes=told)


def mode_of(call: Call, *, training: bool, trainable: bool) -> Mode:
    """The mode that a call is made in.

    Args:
        call: the inputs.
        training: the model's flag.
        trainable: whether any of its parameters asks for a gradient.
    """
    asked = trainable or any(tensor.requires_grad for tensor in call.tensors)
    return Mode(training, torch.is_grad_enabled() and asked, autocast_of(call))


def autocast_of(call: Call) -> torch.dtype | None:
    """The dtype that autocast computes in where the inputs are, None when it is off."""
    device = call.device_type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def run(program: Program, call: Call) -> tuple[Any, tuple[Any, ...]]:
    """The output of a program and the records of its sites.

    Raises:
        NonFiniteError: a site measured NaN, or one that is left exact may have met one: an input or a weight is not
            finite, and a result is NaN.
    """
    segments = segments_of(program.graph_module)
    try:
        output, records = program.run(call)
    except BaseException as error:
        for segment in segments:
            segment.drop()
        if isinstance(error, NonFiniteError):
            check_finite(program.model, call, infinities=True)
        raise
    for segment in segments:
        segment.finish()
    _check_records(program, call, records)
    if program.left_exact and _has_nan(output):
        check_finite(program.model, call, infinities=True)
    return output, records


def _tell_compiled(program: Program, seconds: float) -> None:
    """Counting nodes takes time: only where somebody listens."""
    if not is_told(logging.INFO):
        return
    model, trips = type(program.model).__name__, program.nest.trips()
    captured, rolled = count_nodes(program.captured), count_nodes(program.rolled)
    tell(
        logging.INFO,
        "compiled",
        "%s: %d nodes are %d in %d loops, %d sites; %.1f s",
        model,
        captured,
        rolled,
        len(trips),
        len(program.sites),
        seconds,
        model=model,
        training=program.mode.training,
        grad_enabled=program.mode.grad_enabled,
        captured=captured,
        rolled=rolled,
        trips=trips,
        sites=len(program.sites),
        seconds=seconds,
    )


def _has_nan(output: Any) -> bool:
    """What a site that is left exact cannot tell: whether there is NaN in what the model returns."""
    floating = (leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor))
    return any(bool(leaf.isnan().any()) for leaf in floating if leaf.is_floating_point())


def _of(model: nn.Module, program: Program) -> Program:
    """The program for a copy of the model; bases that are kept from call to call become the copy's own."""
    copied, bases = replace(program, model=model), bases_of(program.graph_module)
    if bases:
        copied = retrack(copied, program.options)
        bases_of(copied.graph_module).load_state_dict(bases.state_dict())
    return copied


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
