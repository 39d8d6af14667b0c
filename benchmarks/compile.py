"""What the passes cost a node: on clean nests from 1k to 200k nodes, and on graphs made to be hard.

    python -m benchmarks.compile

writes benchmarks/results/compile.json. Times are CPU seconds of one process, the least of the runs; memory is what the
passes have allocated at their peak, beyond the captured graph, counted in a run of its own.
"""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import fx

from benchmarks.graphs import ADVERSARIAL, STATES, Chain, Word
from laser_fx.files import write_text
from laser_fx.passes.certificate import certify
from laser_fx.passes.detect import detect
from laser_fx.passes.infra import collector_paused, count_nodes
from laser_fx.passes.normalise import normalise
from laser_fx.passes.reroll import reroll
from laser_fx.reporting import environment

LENGTHS = (1_000, 3_000, 10_000, 30_000, 100_000, 200_000)
ADVERSARIAL_LENGTH = 50_000
RUNS = 3
PASSES = ("normalise", "detect", "reroll", "certify")
RESULT = Path(__file__).parent / "results" / "compile.json"


@dataclass(frozen=True)
class Row:
    """One graph. Times are µs a node, memory is bytes a node."""

    graph: str
    nodes: int
    rolled_nodes: int
    loops: int
    normalise: float
    detect: float
    reroll: float
    certify: float
    bytes: float

    @property
    def total(self) -> float:
        """All passes."""
        return self.normalise + self.detect + self.reroll + self.certify


def run_passes(graph_module: fx.GraphModule, clock: Callable[[str], None]) -> Any:
    """All passes on one graph; ``clock`` is called after each."""
    parameters = frozenset(STATES)
    identities = {name: name for name in STATES}
    view = normalise(graph_module.graph, identities, parameters, False)
    clock("normalise")
    block = detect(view)
    clock("detect")
    rolled = reroll(graph_module, view, block, STATES, False)
    clock("reroll")
    certify(graph_module, rolled.graph_module, identities, parameters, False)
    clock("certify")
    return rolled


def timed(graph_module: fx.GraphModule) -> tuple[dict[str, float], Any]:
    """CPU seconds of each pass, and what they made."""
    spent: dict[str, float] = {}
    gc.collect()
    last = time.process_time()

    def clock(name: str) -> None:
        nonlocal last
        now = time.process_time()
        spent[name], last = now - last, now

    with collector_paused():  # as `laser_fx.passes.roll` runs them
        return spent, run_passes(graph_module, clock)


def peak_bytes(graph_module: fx.GraphModule) -> int:
    """What the passes hold at most, beyond the graph that they were given."""
    gc.collect()
    tracemalloc.start()
    run_passes(graph_module, lambda name: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def measure(name: str, graph_module: fx.GraphModule) -> Row:
    nodes = len(graph_module.graph.nodes)
    runs = [timed(graph_module) for _ in range(RUNS)]
    least = {key: min(spent[key] for spent, _ in runs) * 1e6 / nodes for key in PASSES}
    rolled = runs[0][1]
    loops = sum(1 for _ in rolled.nest.walk())
    return Row(name, nodes, count_nodes(rolled.graph_module), loops, **least, bytes=peak_bytes(graph_module) / nodes)


def exponent(rows: list[Row], cost: Callable[[Row], float]) -> float:
    """Slope of log seconds against log nodes: 1 is linear."""
    nodes = np.log([row.nodes for row in rows])
    seconds = np.log([cost(row) * row.nodes for row in rows])
    return float(np.polyfit(nodes, seconds, 1)[0])


def fit_at(rows: list[Row], nodes: int, cost: Callable[[Row], float]) -> float:
    """µs a node that a line through the clean nests gives for a graph of this size."""
    slope, offset = np.polyfit([row.nodes for row in rows], [cost(row) * row.nodes for row in rows], 1)
    return float(slope + offset / nodes)


def costs() -> dict[str, Callable[[Row], float]]:
    each: dict[str, Callable[[Row], float]] = {name: (lambda row, n=name: getattr(row, n)) for name in PASSES}
    return {**each, "total": lambda row: row.total}


def main() -> None:
    torch.set_num_threads(1)
    clean = [measure("clean nest", Chain(length).graph_module) for length in track(LENGTHS, "clean nests")]
    hard = [
        measure(name, Word(make(ADVERSARIAL_LENGTH)).graph_module)
        for name, make in track(ADVERSARIAL.items(), "hard ones")
    ]
    line = {name: fit_at(clean, ADVERSARIAL_LENGTH, cost) for name, cost in costs().items()}
    recorded = {
        "command": "python -m benchmarks.compile",
        "conditions": f"one thread, CPU time, least of {RUNS} runs, µs and bytes a node of the captured graph",
        "environment": environment(),
        "exponents": {name: exponent(clean, cost) for name, cost in costs().items()},
        "linear_fit_us_per_node": line,
        "clean": [{**asdict(row), "total": row.total} for row in clean],
        "adversarial": [{**asdict(row), "total": row.total, "total_of_fit": row.total / line["total"]} for row in hard],
    }
    write_text(RESULT, json.dumps(recorded, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
