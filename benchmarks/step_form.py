"""The form `step` against the rolled file, and what it gains that rows which are done leave their batch.

    python -m benchmarks.step_form --json benchmarks/results/step_form.json

Times are CPU seconds of one process on one thread, arms in turns, medians of the rounds; ratios are medians of those of
the rounds, so that a shared machine does them little harm.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import laser_fx
from benchmarks.deploy.cases import Size
from benchmarks.deploy.clock import interleaved, ratio
from benchmarks.deploy.publish import _processor
from laser_fx.export import OnnxModel
from laser_fx.files import write_text
from laser_fx.reporting import environment
from laser_fx.zoo import Solve, held_out, load

__all__ = ["main", "sentences"]

SIZE = Size(256, 81)
STEPS, BATCHES, ROUNDS = (4, 16), (1, 8), 7
CELL_SECONDS = 12.0
PUZZLES, MOST_STEPS, SUDOKU_ROUNDS = 64, 8, 4
HALTING = {"rows leave": ("step", "example"), "rows stay": ("step", "batch"), "rows stand still": ("rolled", "example")}
"""What becomes of a row that is done: form and kind of halting. Rows that stay run on until the last one is done."""
ONE_THREAD = {"intra_op_num_threads": 1, "inter_op_num_threads": 1}
TOLERANCE = 1e-3


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_form", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "command": shlex.join(["python", "-m", "benchmarks.step_form", *sys.argv[1:]]),
            "latency": latency(Path(folder)),
            "halting": halting(Path(folder)),
            "cpu_seconds": round(time.process_time() - began),
            "processor": _processor(),
            "environment": environment(),
        }
    text = json.dumps(found, indent=1) + "\n"
    print(text, *sentences(found), sep="\n")
    if chosen.json is not None:
        write_text(chosen.json, text, overwrite=True)


def latency(folder: Path, size: Size = SIZE, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """A row for each number of steps and batch: seconds of both forms, and the step's of the rolled file's."""
    inputs = torch.from_numpy(size.inputs(max(BATCHES)))
    compiled = laser_fx.compile(size.looped(4), (inputs,), options=laser_fx.Options.exact())
    models = {form: _opened(compiled, folder / f"{form}.onnx", form=form) for form in ("step", "rolled")}
    return {"size": size.title, "rows": [_latency(models, inputs[:batch], s) for batch in BATCHES for s in steps]}


def _latency(models: Mapping[str, OnnxModel], inputs: Tensor, steps: int) -> dict[str, Any]:
    ours, theirs = (next(iter(models[form](inputs, depth=steps).values())) for form in ("step", "rolled"))
    difference = float((ours - theirs).abs().max() / theirs.abs().max())
    if not difference < TOLERANCE:
        raise AssertionError(f"the forms differ by {difference:.1e} of the largest logit")
    arms = {form: partial(model, inputs, depth=steps) for form, model in models.items()}
    spent = interleaved(arms, rounds=ROUNDS, seconds=CELL_SECONDS, warm=False)
    return {
        "batch": len(inputs),
        "steps": steps,
        "seconds": {form: statistics.median(values) for form, values in spent.items()},
        "of_rolled": ratio(spent["step"], spent["rolled"]),
        "rounds": len(spent["step"]),
    }


def halting(folder: Path, puzzles: int = PUZZLES, rounds: int = SUDOKU_ROUNDS) -> dict[str, Any]:
    """Puzzles a second of the shipped sudoku model, by what becomes of rows that are done."""
    inputs = held_out("sudoku", puzzles)["inputs"]
    solve = Solve(load("sudoku"), steps=4, halting=True).eval()
    compiled = laser_fx.compile(solve, (inputs[:4],), options=laser_fx.Options.exact())
    models = {
        name: _opened(compiled, folder / f"{form}-{per}.onnx", form=form, halt="q_halt_logits", halt_per=per)
        for name, (form, per) in HALTING.items()
    }
    arms: dict[str, Callable[[], Any]] = {n: partial(m, inputs, depth=MOST_STEPS) for n, m in models.items()}
    spent = interleaved(arms, rounds=rounds)
    taken = torch.as_tensor(models["rows leave"].steps_taken)
    if not torch.equal(taken, torch.as_tensor(models["rows stand still"].steps_taken)):
        raise AssertionError("rows that leave take other steps than rows that stand still")
    return {
        "puzzles": puzzles,
        "most_steps": MOST_STEPS,
        "steps_a_puzzle": taken.double().mean().item(),
        "steps_of_the_last": int(taken.max()),
        "puzzles_a_second": {name: puzzles / statistics.median(values) for name, values in spent.items()},
        "speed_of_leaving": {name: ratio(spent[name], spent["rows leave"]) for name in HALTING if name != "rows leave"},
        "rounds": rounds,
    }


def _opened(compiled: laser_fx.CompiledModel, path: Path, **options: Any) -> OnnxModel:
    return OnnxModel(compiled.to_onnx(path, verify=False, **options).path, session_options=ONE_THREAD)


def sentences(found: Mapping[str, Any]) -> tuple[str, str]:
    """What the docs say of the figures."""
    halts, shares = found["halting"], sorted(row["of_rolled"] for row in found["latency"]["rows"])
    rates = {name: f"{rate:.0f}" for name, rate in halts["puzzles_a_second"].items()}
    gains = {name: f"{gain:.2f}" for name, gain in halts["speed_of_leaving"].items()}
    return (
        f"{found['latency']['size']}, 4 and 16 steps, batch 1 and 8: {shares[0]:.2f} to {shares[-1]:.2f} × "
        "the CPU time of the rolled file",
        f"{halts['puzzles']} sudokus of at most {halts['most_steps']} steps, {halts['steps_a_puzzle']:.1f} on average: "
        f"{rates['rows leave']} a second where rows that are done leave, {rates['rows stay']} where they run on with "
        f"the others, {rates['rows stand still']} where they stand still in a rolled file "
        f"({gains['rows stay']} × and {gains['rows stand still']} × as fast)",
    )


if __name__ == "__main__":
    main()
