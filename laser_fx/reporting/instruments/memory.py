"""What a training step holds for backward, by class of operator: eager, with LASER, and under exact plans."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from laser_fx.call import Call
from laser_fx.errors import InputError, LaserError
from laser_fx.memory.copies import copied, copied_inputs
from laser_fx.memory.plan import Plan
from laser_fx.options import Options
from laser_fx.passes.cut_segments import segments_of
from laser_fx.program import Program
from laser_fx.reporting.instruments.attribute import saved_by_class
from laser_fx.reporting.instruments.progress import told
from laser_fx.reporting.instruments.spectrum import rounded
from laser_fx.reporting.instruments.trained import trained_as
from laser_fx.reporting.measured import MemoryArm
from laser_fx.sentences import first_line

__all__ = ["MeasuredMemory", "measure_memory"]

_REPEATS = 3

Compile = Callable[[nn.Module, Options], Any]


@dataclass(frozen=True)
class MeasuredMemory:
    """What `measure_memory` found.

    Args:
        arms: eager first; empty where nothing is trained.
        plan: of the program's own memory option, where that is a plan.
        warnings: arms that could not be measured, and why.
    """

    arms: tuple[MemoryArm, ...] = ()
    plan: Plan | None = None
    warnings: tuple[str, ...] = ()


def measure_memory(program: Program, compile_copy: Compile) -> MeasuredMemory:
    """Measure one training step of copies of the model on the example inputs.

    Args:
        program: any program; its options decide about everything but ``memory``.
        compile_copy: compiles a copy of a model.
    """
    call = program.capture.call
    try:
        model = copied(program.model).train()
    except InputError as error:
        return MeasuredMemory(warnings=(f"memory is not measured: {error.what}",))
    if not any(p.requires_grad for p in model.parameters()):
        return MeasuredMemory()
    options = _options(program.options)
    with trained_as(program):
        told("memory", 0, len(options) + 1)
        try:
            seconds = _time(model, call)
        except Exception as error:  # whatever the model's own code raises
            return MeasuredMemory(warnings=(f"memory is not measured, training fails: {first_line(error)}",))
        arms, plan, warnings = [MemoryArm("eager", _saved(model, call, ()), 1.0)], None, []
        for number, (name, chosen) in enumerate(options.items(), 1):
            told("memory", number, len(options) + 1)
            try:
                arm, found = _arm(name, compile_copy(model, chosen).train(), call, seconds)
            except LaserError as error:
                warnings.append(f"memory {name!r} is not measured: {error.what}")
                continue
            arms.append(arm)
            plan = found if chosen == program.options else plan
    return MeasuredMemory(tuple(arms), plan, tuple(warnings))


def _options(given: Options) -> dict[str, Options]:
    """The ways of training beside eager; the program's own is among them, unless that is eager."""
    exact = replace(given, approximate=False, tracking="step", centre=False)
    ways = {name: replace(exact, memory=name) for name in ("laser", "lean", "min")}
    if given.memory == "laser":
        ways["laser"] = given
    elif given.memory is not None:
        ways[f"{given.memory}, approximate" if given.approximate else str(given.memory)] = given
    return ways


def _arm(name: str, compiled: Any, call: Call, eager: float) -> tuple[MemoryArm, Plan | None]:
    seconds = _time(compiled, call)
    segments = segments_of(compiled.program.graph_module)
    plan: Plan | None = compiled.plan
    error = plan.error if plan is not None else None
    return MemoryArm(name, _saved(compiled, call, segments), rounded(seconds / eager), error), plan


def _saved(module: nn.Module, call: Call, segments: Sequence[Any]) -> dict[str, int]:
    tensors = copied_inputs(call)
    args, kwargs = call.rebuild(tensors)
    exclude = [*module.buffers(), *tensors]
    return saved_by_class(lambda: module(*args, **kwargs), segments, exclude=exclude)


def _time(module: nn.Module, call: Call) -> float:
    """Seconds of a training step, the least of a few after one that compiles and warms up."""
    return min(list(_times(module, call))[1:])


def _times(module: nn.Module, call: Call) -> Iterator[float]:
    for _ in range(_REPEATS + 1):
        args, kwargs = call.rebuild(copied_inputs(call))
        began = time.perf_counter()
        leaves = [t for t in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(t, Tensor) and t.requires_grad]
        if leaves:
            torch.stack([leaf.float().square().mean() for leaf in leaves]).sum().backward()
        if call.device_type == "cuda":
            torch.cuda.synchronize()
        yield time.perf_counter() - began
        module.zero_grad()
