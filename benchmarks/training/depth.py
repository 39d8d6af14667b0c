"""How deep a model can be trained in a given memory: gradients through all H cycles of several supervision steps.

The published code takes gradients of the last cycle alone and detaches between supervision steps. Here nothing is
detached. Peak bytes are measured at three depths; a line through them says how many block calls with gradient fit, and
a run of a cheap arm at the predicted depth says whether the line holds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training.allocator import allocated
from benchmarks.training.arms import EAGER, Arm, Missing, arm
from benchmarks.training.cases import Case
from laser_fx.zoo.trm import TRM

__all__ = ["LIMIT", "DepthRow", "Supervised", "fitted", "measure"]

LIMIT = 4 * 10**9
"""Bytes: parameters, their gradients, and all that a step holds. The state of an optimiser is not counted."""
CYCLES = (2, 4, 6)
"""Depths that the line goes through, in H cycles; three are one supervision step."""
NAMES = (
    EAGER.name,
    "checkpoint per block",
    "checkpoint per net call",
    "laser-fx 0.05",
    "laser-fx min, approximate 0.1",
)
CHECKED = (EAGER.name,)
"""Arms that run at the depth that is predicted to fit."""


class Supervised(nn.Module):
    """``cycles`` H cycles with gradient, and logits after every ``config.H_cycles`` of them.

    ``forward(inputs)`` takes (batch, seq_len) integers and returns logits (supervision steps, batch, seq_len,
    vocab_size).
    """

    def __init__(self, trm: TRM, cycles: int) -> None:
        super().__init__()
        self.config, self.inner, self.cycles = trm.config, trm.inner, cycles

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.inner
        cos_sin = None if inner.rotary_emb is None else inner.rotary_emb()
        injected = inner._embed({"inputs": inputs})
        start = inner.fresh_carry(inputs.shape[0])
        z_H, z_L = start.z_H, start.z_L
        logits = []
        for cycle in range(1, self.cycles + 1):
            z_H, z_L = inner._cycle(z_H, z_L, injected, cos_sin)
            if cycle % self.config.H_cycles == 0 or cycle == self.cycles:
                logits.append(inner.lm_head(z_H))
        return torch.stack(logits)


@dataclass(frozen=True)
class DepthRow:
    """One arm.

    Args:
        block_calls: depths that were measured.
        bytes: all that lived at the peak: parameters, buffers, inputs, and the step.
        bytes_per_call: slope of the line.
        bytes_at_zero: where it begins.
        residual: the largest distance of a measured depth from the line, in what was measured.
        largest: block calls that fit into `LIMIT`, a whole number of H cycles.
        seconds: CPU seconds of the counted step at the deepest of the depths.
        checks: runs at other depths: block calls, measured and predicted bytes.
    """

    arm: str
    block_calls: tuple[int, ...]
    bytes: tuple[int, ...]
    bytes_per_call: float
    bytes_at_zero: float
    residual: float
    largest: int
    seconds: float
    checks: tuple[dict[str, float], ...]


def fitted(calls: Iterable[int], totals: Iterable[int]) -> tuple[float, float, float]:
    """Slope, offset and largest relative residual of a line.

    >>> [round(value, 6) for value in fitted([1, 2, 4], [110, 210, 410])]
    [100.0, 10.0, 0.0]
    """
    x, y = np.array(list(calls), dtype=float), np.array(list(totals), dtype=float)
    slope, offset = np.polyfit(x, y, 1)
    return float(slope), float(offset), float(np.abs(slope * x + offset - y).max() / y.max())


def measure(case: Case, report: Callable[[str], None]) -> dict[str, Any]:
    """The rows of all arms on the case's model, ready for JSON."""
    began, load = time.perf_counter(), os.getloadavg()[0]
    rows, skipped = [], []
    compiled: dict[int, Any] = {}
    for name in NAMES:
        report(f"depth: {name}")
        try:
            rows.append(asdict(_row(case, arm(name), compiled)))
        except (Missing, StopIteration) as missing:
            skipped.append({"arm": name, "reason": str(missing) or "this version has no such arm"})
    return {
        "title": f"D = {case.config.hidden_size}, {case.config.seq_len} tokens, batch {case.batch}, all cycles",
        "limit_bytes": LIMIT,
        "calls_per_cycle": _calls(case, 1),
        "load_average": [load, os.getloadavg()[0]],
        "took_seconds": time.perf_counter() - began,
        "rows": rows,
        "skipped": skipped,
    }


def _row(case: Case, of: Arm, compiled: dict[int, Any]) -> DepthRow:
    """
    Args:
        compiled: for each depth the model that laser-fx compiled, which this fills.
    """
    measured = [_total(case, of, cycles, compiled) for cycles in CYCLES]
    calls = [_calls(case, cycles) for cycles in CYCLES]
    totals = [total for total, _ in measured]
    slope, offset, residual = fitted(calls, totals)
    cycles = int((LIMIT - offset) / slope / _calls(case, 1))
    checks = []
    if of.name in CHECKED:
        found, _ = _total(case, of, cycles, compiled)
        predicted = slope * _calls(case, cycles) + offset
        checks.append({"block_calls": _calls(case, cycles), "bytes": found, "predicted_bytes": predicted})
    return DepthRow(
        of.name,
        tuple(calls),
        tuple(totals),
        slope,
        offset,
        residual,
        _calls(case, cycles),
        measured[-1][1],
        tuple(checks),
    )


def _calls(case: Case, cycles: int) -> int:
    return cycles * (case.config.L_cycles + 1) * case.config.L_layers


def _total(case: Case, of: Arm, cycles: int, compiled: dict[int, Any]) -> tuple[int, float]:
    """All bytes at the peak of a step, and its CPU seconds."""
    trm = case.model()
    model, inputs = Supervised(trm, cycles), case.inputs(trm)[1]["inputs"]
    run = of.make(compiled.get(cycles, model) if of.ours else model, inputs)
    lasting = [*run.parameters(), *run.buffers(), inputs]
    if of.ours:
        compiled.setdefault(cycles, run)
        run(inputs).float().square().mean().backward()  # bodies are traced
        run.zero_grad()
    began = time.process_time()
    step = allocated(lambda: run(inputs).float().square().mean(), lambda loss: loss.backward(), case.device)
    seconds = time.process_time() - began
    run.zero_grad()
    return step.peak + sum(tensor.untyped_storage().nbytes() for tensor in lasting), seconds
