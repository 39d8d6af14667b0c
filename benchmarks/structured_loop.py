"""What a long loop costs to compile: written with `laser_fx.loop`, and as a Python loop, which tracing unrolls.

    python benchmarks/structured_loop.py

writes benchmarks/results/structured_loop.json. Both forms of one model are compiled in the same run, in turns; a row
has the median of three compilations, after one that is not counted.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import laser_fx
from laser_fx.files import write_text
from laser_fx.passes.infra import count_nodes
from laser_fx.program import Program
from laser_fx.reporting import environment

WIDTH, ROWS, REPEATS = 64, 16, 3
STRUCTURED = (1, 10, 100, 1_000, 10_000)
TRACED = (1, 10, 100, 1_000)
RESULT = Path(__file__).parent / "results" / "structured_loop.json"


@dataclass(frozen=True)
class Row:
    """One model, compiled."""

    form: str
    trips: int
    captured_nodes: int
    rolled_nodes: int
    compile_seconds: float
    compile_cpu_seconds: float
    all_seconds: tuple[float, ...]


class Refined(nn.Module):
    """A state refined in many steps, each with an embedding of its own."""

    def __init__(self, trips: int) -> None:
        super().__init__()
        self.trips = trips
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.steps = nn.Parameter(torch.randn(trips, WIDTH))

    def step(self, z: Tensor, x: Tensor, embedding: Tensor) -> Tensor:
        return torch.tanh(z + self.down(torch.relu(self.up(z + x + embedding))))


class Structured(Refined):
    """With `laser_fx.loop`."""

    def forward(self, x: Tensor) -> Tensor:
        def body(i: Tensor, z: Tensor, embedding: Tensor) -> Tensor:
            return self.step(z, x, embedding)

        return laser_fx.loop(body, torch.zeros_like(x), self.trips, per_step=(self.steps,))


class Traced(Refined):
    """With a Python loop."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for t in range(self.trips):
            z = self.step(z, x, self.steps[t])
        return z


def compiled(form: type[Refined], trips: int) -> tuple[Program, float, float]:
    """The program, and the seconds and CPU seconds that it took."""
    torch.manual_seed(0)
    module, x = form(trips).eval(), torch.randn(ROWS, WIDTH)
    began, cpu = time.perf_counter(), time.process_time()
    program = laser_fx.compile(module, (x,), options=laser_fx.Options.exact()).program
    return program, time.perf_counter() - began, time.process_time() - cpu


def measure(form: type[Refined], trips: int) -> Row:
    runs = [compiled(form, trips) for _ in range(REPEATS)]
    programs, seconds, cpu = zip(*runs, strict=True)
    program, taken = programs[0], tuple(round(s, 4) for s in seconds)
    nodes = (len(program.captured.graph.nodes), count_nodes(program.rolled))
    return Row(form.__name__.lower(), trips, *nodes, statistics.median(taken), round(statistics.median(cpu), 4), taken)


def check(form: type[Refined], trips: int) -> bool:
    """Whether the compiled model answers as eager does, bitwise."""
    program, *_ = compiled(form, trips)
    with torch.no_grad():
        (made,) = program.run_graph(program.rolled, program.example_inputs)
        return torch.equal(made, program.model(*program.example_inputs))


def main() -> None:
    torch.set_num_threads(1)
    cases: list[tuple[type[Refined], int]] = [(Structured, trips) for trips in STRUCTURED]
    cases = sorted([*cases, *((Traced, trips) for trips in TRACED)], key=lambda case: case[1])
    compiled(Structured, 3)
    compiled(Traced, 3)
    rows = [measure(form, trips) for form, trips in track(cases, "compiling")]
    bitwise = {"structured, 10,000 trips": check(Structured, 10_000), "traced, 100 trips": check(Traced, 100)}
    recorded: dict[str, Any] = {
        "command": "python benchmarks/structured_loop.py",
        "model": f"a residual MLP, D={WIDTH}, with a step embedding; batch {ROWS}, float32, eval, Options.exact()",
        "conditions": f"one thread, median of {REPEATS} after one that is not counted, other work on the machine",
        "environment": environment(),
        "bitwise_equal_to_eager": bitwise,
        "rows": [asdict(row) for row in rows],
    }
    write_text(RESULT, json.dumps(recorded, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
