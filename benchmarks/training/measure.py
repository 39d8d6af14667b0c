"""Runs all arms of a case in turns, and reads clocks, allocator and gradients."""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.training.allocator import Allocated, allocated
from benchmarks.training.arms import EAGER, Arm, Missing
from benchmarks.training.cases import Case

__all__ = ["Row", "measure"]

Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One arm on one case.

    Args:
        held_bytes: live when forward has returned, by the allocator.
        peak_bytes: the most that lived during the step, above the parameters; the parameters' gradients included.
        cpu_seconds: of the one thread, at each timed step; on CUDA, seconds between events on the stream.
        wall_seconds: of the same steps.
        time_of_eager: the median over rounds of this arm's ``cpu_seconds`` in eager's of the same round.
        worst_gradient_error: over the parameters, the norm of the difference in eager's norm.
        worst_cosine: over the parameters, the least cosine with eager's gradient.
        forward_error: of the logits, the norm of the difference in eager's norm; 0 is bitwise equality.
        first_call_seconds: CPU seconds of the first step: tracing, planning, inductor's compilation where its cache is
            cold. Arms of laser-fx that run operator by operator share one capture, which the first of them makes.
        planned_fraction: what the plan itself says it keeps, of what eager keeps.
        codecs: values of the plan by the codec that it gave them.
    """

    arm: str
    short: str
    ours: bool
    engine: str
    exact: bool
    held_bytes: int
    held_of_eager: float
    peak_bytes: int
    peak_of_eager: float
    seconds: float
    time_of_eager: float
    worst_gradient_error: float
    worst_cosine: float
    forward_error: float
    planned_fraction: float | None
    codecs: dict[str, int]
    first_call_seconds: float
    cpu_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]


@dataclass
class _Lane:
    """One arm with a model of its own."""

    arm: Arm
    case: Case
    model: Any
    run: Any
    inputs: tuple[Any, Any]
    first_call_seconds: float = 0.0
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def forward(self) -> tuple[Tensor, Tensor]:
        with self.case.precision():
            _, outputs = self.run(*self.inputs)
            logits = outputs["logits"]
            return logits.float().square().mean() + outputs["q_halt_logits"].float().square().mean(), logits

    def step(self) -> None:
        self.model.zero_grad()
        loss, _ = self.forward()
        loss.backward()

    def timed(self) -> None:
        clock = _cuda_seconds if self.case.device == "cuda" else _cpu_seconds
        self.model.zero_grad()
        cpu, wall = clock(self.step)
        self.cpu.append(cpu)
        self.wall.append(wall)
        self.model.zero_grad()

    def counted(self) -> tuple[Allocated, Tensor, list[Tensor]]:
        """The allocator's count of a step, its logits and its gradients."""
        self.model.zero_grad()
        logits: list[Tensor] = []

        def forward() -> Tensor:
            loss, values = self.forward()
            logits.append(values.detach())
            return loss

        found = allocated(forward, lambda loss: loss.backward(), self.case.device)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.model.zero_grad()
        return found, logits[0], gradients


def _cpu_seconds(step: Callable[[], None]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def _cuda_seconds(step: Callable[[], None]) -> tuple[float, float]:
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    wall = time.perf_counter()
    began.record()
    step()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1e3, time.perf_counter() - wall


def measure(case: Case, arms: Sequence[Arm], report: Report) -> dict[str, Any]:
    """The case's rows and what was left out, ready for JSON; `report` is told what runs."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    torch._dynamo.reset()
    lanes, skipped = _lanes(case, arms, report)
    counts = {}
    for lane in lanes:
        report(f"count {lane.arm.name}")
        counts[lane.arm.name] = lane.counted()
    for turn in range(case.repeats):
        for lane in lanes if turn % 2 == 0 else lanes[::-1]:
            report(f"round {turn + 1} of {case.repeats}: {lane.arm.name}")
            lane.timed()
    base = (lanes[0], counts[EAGER.name])
    return {
        "case": case.name,
        "title": case.title,
        "config": asdict(case.config),
        "batch": case.batch,
        "device": case.device,
        "precision": "bf16 autocast" if case.autocast else "fp32",
        "repeats": case.repeats,
        "load_average": [load, os.getloadavg()[0]],
        "took_seconds": time.perf_counter() - began,
        "rows": [asdict(_row(lane, counts[lane.arm.name], *base)) for lane in lanes],
        "skipped": skipped,
    }


def _lanes(case: Case, arms: Iterable[Arm], report: Report) -> tuple[list[_Lane], list[dict[str, str]]]:
    """The arms that run, after their first step, and those that do not."""
    model = case.model()
    ours, compiled = copy.deepcopy(model), None
    lanes, skipped = [], []
    for arm in arms:
        report(f"first step of {arm.name}")
        shares = arm.ours and arm.engine == "eager"  # what inductor compiles, it puts into the program
        own = ours if shares else copy.deepcopy(model)
        try:
            lane = _lane(case, arm, own, compiled if shares else own)
        except Missing as missing:
            skipped.append({"arm": arm.name, "reason": str(missing)})
            print(f"{case.name}: no {arm.name}: {missing}", file=sys.stderr)
        else:
            lanes.append(lane)
            compiled = compiled or (lane.run if shares else None)
    return lanes, skipped


def _lane(case: Case, arm: Arm, model: Any, given: Any) -> _Lane:
    """
    Args:
        model: whose gradients are read.
        given: what the arm is made from, None for the model.
    """
    if arm.level > case.level:
        raise Missing("left out where a step takes long")
    inputs = case.inputs(model)
    began = time.process_time()
    with case.precision():
        run = arm.make(model if given is None else given, *inputs)
    lane = _Lane(arm, case, model, run, inputs)
    if arm.ours or arm.engine == "inductor":  # eager prepares nothing
        lane.step()
    lane.first_call_seconds = time.process_time() - began
    return lane


Count = tuple[Allocated, Tensor, list[Tensor]]


def _row(lane: _Lane, count: Count, eager: _Lane, of_eager: Count) -> Row:
    found, logits, gradients = count
    base, base_logits, base_gradients = of_eager
    pairs = list(zip(gradients, base_gradients, strict=True))
    plan = getattr(lane.run, "plan", None)
    return Row(
        arm=lane.arm.name,
        short=lane.arm.short,
        ours=lane.arm.ours,
        engine=lane.arm.engine,
        exact=lane.arm.exact,
        held_bytes=found.held,
        held_of_eager=found.held / base.held,
        peak_bytes=found.peak,
        peak_of_eager=found.peak / base.peak,
        seconds=statistics.median(lane.cpu),
        time_of_eager=statistics.median(mine / theirs for mine, theirs in zip(lane.cpu, eager.cpu, strict=True)),
        worst_gradient_error=max(_relative(mine, theirs) for mine, theirs in pairs),
        worst_cosine=min(_cosine(mine, theirs) for mine, theirs in pairs),
        forward_error=0.0 if torch.equal(logits, base_logits) else _relative(logits, base_logits),
        planned_fraction=plan.fraction if plan else None,
        codecs=dict(Counter(row.codec for row in plan.rows)) if plan else {},
        first_call_seconds=lane.first_call_seconds,
        cpu_seconds=tuple(lane.cpu),
        wall_seconds=tuple(lane.wall),
    )


def _relative(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected.double()).norm() / expected.double().norm())


def _cosine(value: Tensor, expected: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(value.double().flatten(), expected.double().flatten(), dim=0))
