"""What unrolling costs: nodes, bytes, export and load time of a solve at several depths, beside the rolled file.

    python benchmarks/unrolled_depth.py

writes benchmarks/results/unrolled_depth.json, which the demo shows. It takes minutes, most of them at depth 16.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.progress import track

import laser_fx
from laser_fx.export import OnnxModel
from laser_fx.export.build import Form
from laser_fx.files import write_text
from laser_fx.reporting import environment
from laser_fx.zoo import Solve, held_out, load

MODEL = "attention"
CASES: tuple[tuple[Form, int], ...] = (("rolled", 16), ("unrolled", 1), ("unrolled", 4), ("unrolled", 16))
RESULT = Path(__file__).parent / "results" / "unrolled_depth.json"


@dataclass(frozen=True)
class Row:
    """One file."""

    form: str
    steps: int
    nodes: int
    bytes: int
    compile_seconds: float
    export_seconds: float
    load_seconds: float


def measure(form: Form, steps: int, folder: Path) -> Row:
    inputs = held_out(MODEL, 2)["inputs"]
    began = time.perf_counter()
    compiled = laser_fx.compile(Solve(load(MODEL), steps).eval(), (inputs,), options=laser_fx.Options.exact())
    ready = time.perf_counter()
    file = compiled.to_onnx(folder / f"{form}-{steps}.onnx", form=form, verify=False)
    written = time.perf_counter()
    OnnxModel(file.path)
    return Row(form, steps, file.nodes, file.bytes, ready - began, written - ready, time.perf_counter() - written)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(form, steps, Path(folder)) for form, steps in track(CASES, "exporting")]
    config = load(MODEL).config
    recorded = {
        "command": "python benchmarks/unrolled_depth.py",
        "model": f"{MODEL}: D={config.hidden_size}, H={config.H_cycles}, L={config.L_cycles}, one solve",
        "environment": environment(),
        "rows": [asdict(row) for row in rows],
    }
    write_text(RESULT, json.dumps(recorded, indent=2) + "\n", overwrite=True)


if __name__ == "__main__":
    main()
