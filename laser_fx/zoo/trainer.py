"""Deep supervision with an exponential average of the weights, resumable at every batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laser_fx.errors import InputError
from laser_fx.zoo import store
from laser_fx.zoo.recipes import Recipe
from laser_fx.zoo.tasks import Batch
from laser_fx.zoo.trm import TRM

__all__ = ["Trainer", "loss"]


def loss(logits: Tensor, q_halt: Tensor, labels: Tensor, halt_weight: float) -> Tensor:
    """Cross entropy of every cell, and of the halting logit against "every cell is right".

    Args:
        logits: (batch, seq_len, vocab_size).
        q_halt: (batch,).
        labels: (batch, seq_len) int64.
        halt_weight: weight of the second term.
    """
    answer = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    solved = (logits.detach().argmax(dim=-1) == labels).all(dim=-1)
    return answer + halt_weight * F.binary_cross_entropy_with_logits(q_halt, solved.to(q_halt.dtype))


class Trainer:
    """A training run. What a batch holds depends on its number alone, so a resumed run goes on as it would have.

    Args:
        recipe: what to train, and how. Its training puzzles are made here.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.model = TRM(recipe.config).train()
        self.averaged = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimisers = recipe.optimisers(self.model)
        self.full_rates = [group["lr"] for optimiser in self.optimisers for group in optimiser.param_groups]
        stages = (*recipe.curriculum, (recipe.batches, recipe.task))
        self.pools = [(end, task.batch(recipe.pool, recipe.seed)) for end, task in stages]
        self.batches = self.steps = 0
        self.seconds = 0.0

    def train_batch(self) -> float:
        """All supervision steps on the next batch. Returns the last loss."""
        batch = self._next_batch()
        carry = self.model.initial_carry(batch).inner_carry
        value = torch.zeros(())
        for _ in range(self.recipe.supervision_steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.bfloat16):
                carry, logits, (q_halt, _) = self.model.inner(carry, batch)
            value = loss(logits.float(), q_halt, batch["labels"], self.recipe.halt_weight)
            value.backward()
            self._step()
        self.batches += 1
        return float(value.detach())

    def averaged_model(self) -> TRM:
        """A copy of the model with the averaged weights, in eval mode."""
        model = TRM(self.recipe.config)
        model.load_state_dict(self.averaged)
        return model.eval()

    def save(self, path: Path) -> None:
        """Write the whole state: weights, averaged weights, optimisers, counters.

        Raises:
            OutputPathError: the file cannot be written.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.items()}
        tensors |= self._optimiser_tensors()
        counters = {"batches": self.batches, "steps": self.steps, "seconds": self.seconds}
        store.write(path, tensors, counters)

    def resume(self, path: Path) -> None:
        """Go on from the state that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, or of another recipe.
        """
        tensors, counters = store.read(path)
        try:
            self.model.load_state_dict(_below("model.", tensors))
            self.averaged = {name: tensors[f"averaged.{name}"] for name in self.averaged}
            self._load_optimisers(tensors)
            self.batches, self.steps = int(counters["batches"]), int(counters["steps"])
            self.seconds = float(counters["seconds"])
        except (KeyError, RuntimeError, ValueError) as error:
            fix = "resume with the recipe that wrote it, or start anew"
            raise InputError(f"not a state of this recipe: {error}", where=str(path), fix=fix) from error

    def _next_batch(self) -> Batch:
        rng = np.random.default_rng([self.recipe.seed, self.batches])
        pool = next((pool for end, pool in self.pools if self.batches < end), self.pools[-1][1])
        rows = torch.from_numpy(rng.integers(self.recipe.pool, size=self.recipe.batch_size))
        batch = {name: value[rows] for name, value in pool.items()}
        return self.recipe.task.augment(batch, int(rng.integers(2**63)))

    def _step(self) -> None:
        share = self.recipe.rate(self.batches, self.steps)
        groups = [group for optimiser in self.optimisers for group in optimiser.param_groups]
        for group, full in zip(groups, self.full_rates, strict=True):
            group["lr"] = full * share
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.steps += 1
        self._average()

    @torch.no_grad()
    def _average(self) -> None:
        # A plain mean at first, so that the average does not remember the initial weights.
        keep = min(self.recipe.ema, self.steps / (self.steps + 10))
        for name, value in self.model.state_dict().items():
            self.averaged[name].lerp_(value, 1.0 - keep)

    def _optimiser_tensors(self) -> dict[str, Tensor]:
        return {
            f"optimiser.{number}.{index}.{key}": value
            for number, optimiser in enumerate(self.optimisers)
            for index, state in optimiser.state_dict()["state"].items()
            for key, value in state.items()
        }

    def _load_optimisers(self, tensors: dict[str, Tensor]) -> None:
        for number, optimiser in enumerate(self.optimisers):
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(f"optimiser.{number}.", tensors).items():
                index, key = name.split(".")
                states.setdefault(int(index), {})[key] = value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": states})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
