"""The ways to run a solve that the table of latencies has, one line each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from benchmarks.deploy import low_rank
from benchmarks.deploy.cases import Plan, Size
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Missing
from benchmarks.deploy.sessions import answer, session
from laser_fx.errors import LaserError
from laser_fx.export import OnnxModel
from laser_fx.zoo import Solve

__all__ = ["ARMS", "Arm", "Bench", "Ready", "prepared"]

Inputs = npt.NDArray[Any]
Solver = Callable[[Inputs], npt.NDArray[Any]]
ONE_THREAD = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}


@dataclass
class Bench:
    """One size, with what arms share across its cells."""

    plan: Plan
    files: Files
    size: Size
    kept: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made under this name before, or is made now."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


@dataclass(frozen=True)
class Arm:
    """One way to run a solve.

    Args:
        name: in tables.
        make: from the bench, steps and batch: a function of the inputs that gives the logits.
        exact: whether its answers have to be eager's.
    """

    name: str
    make: Callable[[Bench, int, int], Solver]
    exact: bool = True


def _rolled(bench: Bench, steps: int, batch: int) -> Solver:
    opened = bench.once("rolled", lambda: session(bench.files.rolled(bench.size).path))
    return lambda inputs: answer(opened, inputs, steps)


def _rolled_model(bench: Bench, steps: int, batch: int) -> Solver:
    model = bench.once("OnnxModel", lambda: OnnxModel(bench.files.rolled(bench.size).path, session_options=ONE_THREAD))
    return lambda inputs: first(model(inputs, depth=steps))


def _functions(bench: Bench, steps: int, batch: int) -> Solver:
    if steps > bench.plan.function_steps[bench.size.name != bench.plan.sizes[0].name]:
        raise Missing("ONNX Runtime takes minutes to open files of more steps")
    opened = bench.once(f"functions-{steps}", lambda: session(bench.files.functions(bench.size, steps).path))
    return lambda inputs: answer(opened, inputs)


def _unrolled(bench: Bench, steps: int, batch: int) -> Solver:
    opened = bench.once(f"unrolled-{steps}", lambda: session(bench.files.unrolled(bench.size, steps).path))
    return lambda inputs: answer(opened, inputs)


def _step(bench: Bench, steps: int, batch: int) -> Solver:
    def make() -> OnnxModel:
        file = bench.files.step(bench.size)
        return OnnxModel(file.path, session_options=ONE_THREAD)

    model = bench.once("step", make)
    return lambda inputs: first(model(inputs, depth=steps))


def _eager(bench: Bench, steps: int, batch: int) -> Solver:
    return _torch(Solve(bench.once("trm", bench.size.trm), steps))


def _compiled_step(bench: Bench, steps: int, batch: int) -> Solver:
    """The supervision step by inductor; a whole solve would be traced and compiled for every number of steps."""
    if bench.size != bench.plan.sizes[0] or batch != bench.plan.batches[0]:
        raise Missing("inductor compiles every shape anew: at the first size and batch alone")
    return _torch(Solve(bench.once("compiled step", lambda: _inner_by_inductor(bench)), steps))


def _inner_by_inductor(bench: Bench) -> nn.Module:
    trm = bench.size.trm()
    trm.inner.compile(dynamic=False)
    return trm


def _compiled_call(bench: Bench, steps: int, batch: int) -> Solver:
    """Each call of the one network by inductor, which compiles it once."""

    def make() -> nn.Module:
        trm = bench.size.trm()
        trm.inner.L_level.compile(dynamic=False)
        return trm

    return _torch(Solve(bench.once(f"compiled call-{batch}", make), steps))


def _low_rank(bench: Bench, steps: int, batch: int, *, measured: bool = False) -> Solver:
    name = f"low rank{', measured' * measured}"
    opened = bench.once(name, lambda: session(low_rank.random_file(bench.files, bench.size, measured=measured).path))
    return lambda inputs: answer(opened, inputs, steps)


def _torch(model: nn.Module) -> Solver:
    def run(inputs: Inputs) -> Inputs:
        with torch.no_grad():
            logits: Inputs = model(torch.from_numpy(inputs)).numpy()
        return logits

    return run


def first(outputs: dict[str, Any]) -> Inputs:
    """The first of a model's outputs."""
    value: Inputs = next(iter(outputs.values()))
    return value


ARMS: tuple[Arm, ...] = (
    Arm("rolled", _rolled),
    Arm("rolled, OnnxModel", _rolled_model),
    Arm("functions", _functions),
    Arm("unrolled", _unrolled),
    Arm("step, OnnxModel", _step),
    Arm("torch eager", _eager),
    Arm("torch.compile, a step", _compiled_step),
    Arm("torch.compile, a net call", _compiled_call),
    Arm("low rank 0.45 ×", _low_rank, exact=False),
    Arm("low rank 0.45 ×, measured", partial(_low_rank, measured=True), exact=False),
)


@dataclass(frozen=True)
class Ready:
    """An arm that has answered once.

    Args:
        again: solves the same inputs once more.
        answer: its logits.
        seconds: CPU seconds until then.
        first_call: those of the call alone.
    """

    again: Callable[[], Inputs]
    answer: Inputs
    seconds: float
    first_call: float


def prepared(arm: Arm, bench: Bench, steps: int, batch: int) -> Ready:
    """The arm, after its first call.

    Raises:
        Missing: this version or this size has no such arm.
    """
    began = time.process_time()
    try:
        solve = partial(arm.make(bench, steps, batch), bench.size.inputs(batch))
        made = time.process_time()
        found = solve()
    except LaserError as error:
        raise Missing(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    ended = time.process_time()
    return Ready(solve, found, ended - began, ended - made)
