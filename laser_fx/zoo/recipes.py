"""How each model of the zoo is trained: task, sizes, optimisers and schedule."""

from __future__ import annotations

from dataclasses import dataclass

from torch import optim

from laser_fx.zoo.tasks import Sudoku, Task
from laser_fx.zoo.trm import TRM, TRMConfig

__all__ = ["RECIPES", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a training run computes.

    Args:
        task: where puzzles come from.
        config: sizes of the model.
        batches: training batches in all.
        curriculum: easier tasks for the first batches: (number of the batch at which each one ends, task), in order.
        pool: different puzzles of each task, before augmentation.
        batch_size: puzzles in a batch.
        supervision_steps: supervision steps made on each batch, with one optimiser step after each.
        test_steps: supervision steps at test time.
        warmup: optimiser steps over which the learning rate rises.
        decay_share: last share of the batches, over which it falls to a tenth.
        learning_rate: AdamW's.
        weight_decay: AdamW's.
        muon_rate: learning rate of Muon on the blocks' matrices, in terms of 0.2·√(longer side); ``None`` for AdamW.
        muon_decay: Muon's weight decay.
        ema: share that the averaged weights keep at each optimiser step.
        halt_weight: weight of the halting loss.
        bfloat16: compute matrix products in bfloat16 while training.
        seed: of initial weights, puzzles and batches.
    """

    task: Task
    config: TRMConfig
    batches: int
    test_steps: int
    curriculum: tuple[tuple[int, Task], ...] = ()
    pool: int = 30_000
    batch_size: int = 48
    supervision_steps: int = 2
    warmup: int = 100
    decay_share: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    muon_rate: float | None = None
    muon_decay: float = 0.05
    ema: float = 0.998
    halt_weight: float = 0.5
    bfloat16: bool = True
    seed: int = 0

    def rate(self, batch: int, step: int) -> float:
        """Share of the full learning rate at a batch and an optimiser step, both counted from 0."""
        left = (self.batches - batch) / (self.decay_share * self.batches)
        return min(1.0, (step + 1) / self.warmup, 0.1 + 0.9 * max(0.0, left))

    def optimisers(self, model: TRM) -> list[optim.Optimizer]:
        """The optimisers of a model's parameters, at the full learning rate."""
        matrices = list(model.inner.L_level.parameters()) if self.muon_rate is not None else []
        chosen = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
        adamw = optim.AdamW(rest, lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=self.weight_decay)
        if self.muon_rate is None:
            return [adamw]
        # "match_rms_adamw" multiplies the rate by 0.2·√(longer side).
        muon = optim.Muon(
            matrices,
            lr=self.muon_rate,
            momentum=0.95,
            weight_decay=self.muon_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        return [adamw, muon]


RECIPES = {
    "sudoku": Recipe(
        task=Sudoku(6, givens=12),
        config=TRMConfig(
            seq_len=36,
            vocab_size=7,
            H_cycles=2,
            L_cycles=3,
            hidden_size=256,
            num_heads=4,
            pos_encodings="none",
            mlp_t=True,
        ),
        batches=500,
        supervision_steps=3,
        test_steps=8,
    ),
    "attention": Recipe(
        task=Sudoku(6, givens=12),
        config=TRMConfig(
            seq_len=36,
            vocab_size=7,
            H_cycles=2,
            L_cycles=2,
            hidden_size=192,
            num_heads=4,
            pos_encodings="learned_rope2d",
            rope_theta=10.0,
        ),
        batches=800,
        curriculum=((100, Sudoku(6, givens=24)), (200, Sudoku(6, givens=17))),
        pool=10_000,
        supervision_steps=3,
        test_steps=8,
        muon_rate=2e-3,
    ),
}
