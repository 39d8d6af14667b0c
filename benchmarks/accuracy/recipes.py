"""The reduced recipes: the architectures of the zoo, small enough to train in seconds, and the held-out puzzles."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from laser_fx.zoo.recipes import RECIPES, Recipe
from laser_fx.zoo.tasks import Batch, Sudoku
from laser_fx.zoo.trm import TRMConfig

__all__ = ["HELD_OUT", "MODELS", "held_out", "recipe_of"]

HELD_OUT = 2_000
_HELD_OUT_SEED = 2604
_TASK = Sudoku(4, givens=4)


def _reduced(name: str, blocks: int, **changes: object) -> Recipe:
    """A recipe of the zoo with 4×4 puzzles, a narrower model, fewer batches, and float32 throughout."""
    base = RECIPES[name]
    sizes = {
        "seq_len": _TASK.seq_len,
        "vocab_size": _TASK.vocab_size,
        "hidden_size": 48,
        "num_heads": 2,
        "L_layers": blocks,
    }
    config = TRMConfig(**{**vars(base.config), **sizes, "H_cycles": 2, "L_cycles": 2})
    common = {"pool": 4_000, "supervision_steps": 2, "test_steps": 2, "warmup": 50, "decay_share": 0.5}
    shared = {**common, "task": _TASK, "config": config, "curriculum": (), "bfloat16": False}
    return replace(base, **{**shared, **changes})


MODELS = {
    "sudoku": _reduced("sudoku", blocks=1, batches=140, batch_size=48),
    "attention": _reduced("attention", blocks=2, batches=250, batch_size=32),
}


def recipe_of(model: str, seed: int, *, full_gradient: bool = False) -> Recipe:
    """The recipe of one run. Its seed decides initial weights, puzzles and their order: an arm has no say in it."""
    recipe = MODELS[model]
    return replace(recipe, seed=seed, config=replace(recipe.config, full_gradient=full_gradient))


@cache
def held_out(count: int = HELD_OUT) -> Batch:
    """Different puzzles that no training batch holds, the same ones for every run.

    There are few puzzles of this kind, so a draw repeats itself: only the first of equal ones is taken.
    """
    drawn = _TASK.batch(4 * count, _HELD_OUT_SEED, split="test")
    _, firsts = np.unique(drawn["inputs"].numpy(), axis=0, return_index=True)
    rows = torch.from_numpy(np.sort(firsts)[:count])
    return {name: value[rows] for name, value in drawn.items()}
