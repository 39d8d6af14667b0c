"""Train a Tiny Recursive Model with half the memory for backward, beside eager PyTorch.

Both runs start from the same weights and see the same 4×4 sudoku puzzles. With `products="eager"` the plan's gradients
are eager's bit by bit on the CPU, and so are the losses; without it backward takes the fastest kernels, and the last
bits differ.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import laser_fx
from laser_fx.memory.measure import saved_bytes
from laser_fx.zoo import TRM, TRMConfig
from laser_fx.zoo.tasks import Sudoku

SUPERVISION = 2
"""Steps on each batch; the optimiser steps after each, and the carry goes on without its history."""


def new_model(task: Sudoku, width: int) -> TRM:
    sizes = {"seq_len": task.seq_len, "vocab_size": task.vocab_size, "hidden_size": width, "num_heads": 4}
    cycles = {"H_cycles": 2, "L_cycles": 3, "L_layers": 1, "full_gradient": True}
    return TRM(TRMConfig(**sizes, **cycles, mlp_t=True, pos_encodings="none", halt_exploration_prob=0.0)).train()


def loss_of(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs["logits"].flatten(0, 1), batch["labels"].flatten())


def train(name: str, run: nn.Module, pool: dict[str, Tensor], batches: int, rows: int) -> None:
    """Trains and prints the loss; ``run`` is a model, or a compiled one: the loop is the same."""
    optimiser = torch.optim.AdamW(run.parameters(), lr=2e-3, weight_decay=0.1, betas=(0.9, 0.95))
    choose, started = torch.Generator().manual_seed(0), time.process_time()
    for number in range(batches):
        chosen = torch.randint(len(pool["inputs"]), (rows,), generator=choose)
        batch = {key: value[chosen] for key, value in pool.items()}
        carry = run.initial_carry(batch)
        for _ in range(SUPERVISION):
            carry, outputs = run(carry, batch)
            loss = loss_of(outputs, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if (number + 1) % (batches // 4) == 0:
            print(f"{name:<10} batch {number + 1:>4}  loss {loss.item():.3f}")
    print(f"{name:<10} {time.process_time() - started:.1f} CPU seconds")


def solved(model: TRM, puzzles: dict[str, Tensor]) -> float:
    """The share of puzzles whose every cell is right."""
    solve = laser_fx.zoo.Solve(model, steps=SUPERVISION).eval()
    with torch.no_grad():
        right = solve(puzzles["inputs"]).argmax(-1) == puzzles["labels"]
    return right.all(-1).float().mean().item()


def held(run: nn.Module, batch: dict[str, Tensor]) -> int:
    """Bytes that one call holds for backward, weights and inputs not counted; the storages are counted, not a plan."""
    carry = run.initial_carry(batch)
    given = [*batch.values(), *run.buffers(), carry.inner_carry.z_H, carry.inner_carry.z_L]
    return saved_bytes(lambda: run(carry, batch), exclude=given)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", type=float, default=0.5, help="share of eager's bytes that may be held")
    parser.add_argument("--batches", type=int, default=160)
    parser.add_argument("--smoke", action="store_true", help="a few batches of a tiny model, to see that it runs")
    chosen = parser.parse_args(arguments)
    batches, rows, width = (4, 8, 16) if chosen.smoke else (chosen.batches, 32, 64)
    puzzles = (40, 50) if chosen.smoke else (4000, 500)

    torch.manual_seed(0)
    task = Sudoku(4, givens=6)
    pool, held_out = task.batch(puzzles[0], seed=0), task.batch(puzzles[1], seed=1, split="test")
    models: dict[str, Any] = {"eager": new_model(task, width)}
    models["laser-fx"] = copy.deepcopy(models["eager"])
    options = laser_fx.Options.exact(memory=chosen.memory, products="eager")
    runs = {"eager": models["eager"], "laser-fx": laser_fx.compile(models["laser-fx"], options=options)}

    for name, run in runs.items():
        train(name, run, pool, batches, rows)
    batch = {key: value[:rows] for key, value in pool.items()}
    amounts = {name: held(run, batch) for name, run in runs.items()}
    for name, amount in amounts.items():
        share = amount / amounts["eager"]
        told = f"{amount / 2**20:6.2f} MiB held for backward, {share:4.0%}"
        print(f"{name:<10} {told}; {solved(models[name], held_out):.1%} of {len(held_out['inputs'])} held-out puzzles")


if __name__ == "__main__":
    main()
