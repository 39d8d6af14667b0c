"""Train a model of the zoo: ``python -m laser_fx.zoo.train sudoku --out sudoku.safetensors``.

Beside FILE, the state of the run is kept in FILE.state, from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from laser_fx.errors import LaserError
from laser_fx.files import write_text
from laser_fx.zoo.evaluate import Score, evaluate
from laser_fx.zoo.recipes import RECIPES, Recipe
from laser_fx.zoo.store import load_model, save_model
from laser_fx.zoo.trainer import Trainer

__all__ = ["main"]

_TEST_SEED = 2604


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, evaluate on held-out puzzles, and write the model and its figures. Returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=True)
    recipe = RECIPES[options.recipe]
    if options.batches is not None:
        recipe = replace(recipe, batches=options.batches)
    try:
        _run(options, recipe, console)
    except LaserError as error:
        console.print(str(error), style="red", highlight=False, markup=False)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m laser_fx.zoo.train", description="Train a model of the zoo.")
    parser.add_argument("recipe", choices=sorted(RECIPES), help="what to train")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the trained model, safetensors")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many minutes of this run")
    parser.add_argument("--batches", type=int, help="batches in all, over which the learning rate is scheduled")
    parser.add_argument("--resume", action="store_true", help="go on from FILE.state")
    parser.add_argument("--every", type=int, default=100, metavar="N", help="save and look every N batches")
    parser.add_argument("--puzzles", type=int, default=2000, help="held-out puzzles of the final evaluation")
    parser.add_argument("--results", type=Path, metavar="FILE", help="write the figures here, JSON")
    return parser


def _run(options: argparse.Namespace, recipe: Recipe, console: Console) -> None:
    state = options.out.with_name(options.out.name + ".state")
    console.print(f"making {recipe.pool} puzzles")
    trainer = Trainer(recipe)
    if options.resume:
        trainer.resume(state)
    _train(trainer, options, state, console)
    save_model(options.out, recipe.config, trainer.averaged, recipe.test_steps)
    # What counts is the file that was written, not the weights in memory.
    stored = load_model(options.out)
    held_out = recipe.task.batch(options.puzzles, _TEST_SEED, split="test")
    score = evaluate(stored.model, held_out, stored.steps)
    low, high = score.interval()
    console.print(f"exact on {score.count} held-out puzzles: {score.exact:.2%} ({low:.2%} to {high:.2%})")
    if options.results is not None:
        figures = json.dumps(_figures(options, trainer, score), indent=2) + "\n"
        write_text(options.results, figures, overwrite=True)


def _train(trainer: Trainer, options: argparse.Namespace, state: Path, console: Console) -> None:
    recipe = trainer.recipe
    look = recipe.task.batch(250, _TEST_SEED + 1, split="test")
    started, before = time.monotonic(), trainer.seconds
    with _progress(console) as progress:
        bar = progress.add_task("training", total=recipe.batches, completed=trainer.batches)
        while trainer.batches < recipe.batches and time.monotonic() - started < 60 * options.minutes:
            value = trainer.train_batch()
            trainer.seconds = before + time.monotonic() - started
            progress.update(bar, completed=trainer.batches, description=f"loss {value:.3f}")
            if trainer.batches % options.every == 0:
                trainer.save(state)
                exact = evaluate(trainer.averaged_model(), look, recipe.test_steps).exact
                console.print(
                    f"{trainer.batches} batches, {trainer.seconds:.0f} s: loss {value:.3f}, exact {exact:.1%}"
                )
    trainer.save(state)


def _progress(console: Console) -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=console)


def _figures(options: argparse.Namespace, trainer: Trainer, score: Score) -> dict[str, Any]:
    recipe = trainer.recipe
    return {
        "model": options.recipe,
        "exact": score.exact,
        "exact_wilson_95": score.interval(),
        "solved": score.solved,
        "puzzles": score.count,
        "puzzle_seed": _TEST_SEED,
        "supervision_steps_at_test": recipe.test_steps,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "batches": trainer.batches,
        "batch_size": recipe.batch_size,
        "training_seconds": round(trainer.seconds, 1),
        "seed": recipe.seed,
        "recipe": repr(recipe),
        "command": "python -m laser_fx.zoo.train " + " ".join(sys.argv[1:]),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
