"""Measures points: the exact model and a setting on the same held-out puzzles."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import laser_fx.zoo.checkpoints
from benchmarks.lowrank.points import CHOICES, STEPS, Point
from laser_fx.calibrator.allocate import Costs
from laser_fx.calibrator.examples import Example, Splits
from laser_fx.calibrator.search import Search, Setting
from laser_fx.compiler import compile
from laser_fx.options import Options
from laser_fx.program import Program
from laser_fx.zoo.store import StoredModel, load_model
from laser_fx.zoo.tasks import Split, Sudoku
from laser_fx.zoo.trm import Solve

__all__ = ["HELD_OUT", "HOPELESS", "LOOK", "SEARCHED", "measure"]

HELD_OUT, SEARCHED = 4000, 300
_ROWS = 25
LOOK, HOPELESS = 500, 0.05
"""After so many puzzles a setting that lost more than this share is measured no further: it cannot be equivalent."""


def measure(point: Point) -> dict[str, Any]:
    """Run a point, and say what came of it."""
    began = time.process_time()
    search = _search(point.model, STEPS)
    setting = search.setting(CHOICES[point.choice], point.share)
    at = search if point.steps == STEPS else _search(point.model, _stored(point.model).steps)
    share = Costs(at.sites.values(), at.program.nest, setting.family.schedule).share(setting.bases)
    solved, exact = _answers(at, setting)
    return {
        "model": point.model,
        "choice": point.choice,
        "share": point.share,
        "steps": at.program.nest.loops[0].trip_count,
        "calibrated_at": STEPS,
        "flops_share": share,
        "puzzles": len(solved),
        "exact": int(exact.sum()),
        "solved": int(solved.sum()),
        "lost": int((exact & ~solved).sum()),
        "gained": int((solved & ~exact).sum()),
        "ranks": {key: basis.rank for key, basis in setting.bases.items()},
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _answers(search: Search, setting: Setting) -> tuple[Tensor, Tensor]:
    """Puzzles solved through a setting, and by the exact model: as many as it takes to know."""
    solved: list[Tensor] = []
    exact: list[Tensor] = []
    batches = LOOK // _ROWS
    for start in range(0, HELD_OUT // _ROWS, batches):
        part = search.splits.held_out[start : start + batches]
        exact.append(search.exact(part))
        solved.append(search.kept(setting, part))
        seen, found = torch.cat(exact), torch.cat(solved)
        if float(seen.double().mean() - found.double().mean()) > HOPELESS:
            break
    return torch.cat(solved), torch.cat(exact)


@cache
def _search(model: str, steps: int) -> Search:
    searched, held_out = _examples(SEARCHED, 1, "train"), _examples(HELD_OUT, 2026, "test")
    return Search(_program(model, steps), "accuracy", Splits(searched, (), held_out))


def _program(model: str, steps: int) -> Program:
    solve = Solve(_stored(model).model, steps).eval()
    example = _examples(SEARCHED, 1, "train")[0][0]
    with torch.no_grad():
        compiled = compile(solve, options=Options.exact(measure=False))
        compiled(*example)
    return compiled.program


@cache
def _stored(model: str) -> StoredModel:
    return load_model(Path(next(iter(laser_fx.zoo.checkpoints.__path__))) / f"{model}.safetensors")


@cache
def _examples(count: int, seed: int, split: Split) -> list[Example]:
    batch = Sudoku(6, givens=12).batch(count, seed=seed, split=split)
    return [
        ((inputs,), labels)
        for inputs, labels in zip(batch["inputs"].split(_ROWS), batch["labels"].split(_ROWS), strict=True)
    ]
