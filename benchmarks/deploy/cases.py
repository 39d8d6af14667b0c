"""The models and sizes that are measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.zoo import TRM, Solve, TRMConfig

__all__ = ["FULL", "QUICK", "Looped", "Plan", "Size"]

VOCABULARY = 11


class Looped(nn.Module):
    """A solve whose supervision steps are a `laser_fx.loop`, which a capture follows once. As `Solve` otherwise.

    ``forward(inputs)`` takes (batch, seq_len) int64 and returns the last step's logits (batch, seq_len, vocab_size).
    """

    def __init__(self, trm: TRM, steps: int) -> None:
        super().__init__()
        self.trm, self.steps = trm, steps

    def forward(self, inputs: Tensor) -> Tensor:
        batch = {"inputs": inputs, "puzzle_identifiers": inputs.new_zeros(inputs.shape[0])}
        carry = self.trm.initial_carry(batch).inner_carry
        logits = carry.z_H.new_zeros(*inputs.shape, self.trm.config.vocab_size)

        def step(i: Tensor, state: tuple[Any, Tensor]) -> tuple[Any, Tensor]:
            following, answer, _ = self.trm.inner(state[0], batch)
            return following, answer

        _, answer = laser_fx.loop(step, (carry, logits), self.steps)
        found: Tensor = answer
        return found


@dataclass(frozen=True)
class Size:
    """One model."""

    width: int
    tokens: int
    cycles: tuple[int, int] = (3, 6)

    @property
    def name(self) -> str:
        """Short, for keys and file names.

        >>> Size(256, 81).name
        '256x81'
        """
        return f"{self.width}x{self.tokens}"

    @property
    def title(self) -> str:
        """For people."""
        return f"D = {self.width}, {self.tokens} tokens"

    def trm(self) -> TRM:
        """The model, with the same weights at every call, in eval mode.

        What blocks add to the state is scaled down: with fresh weights a solve is chaotic, and multiplies a difference
        of 1e-6 by a million in 16 supervision steps, so that no two ways to compute it agree.
        """
        torch.manual_seed(0)
        high, low = self.cycles
        config = TRMConfig(
            seq_len=self.tokens,
            vocab_size=VOCABULARY,
            hidden_size=self.width,
            num_heads=max(2, self.width // 64),
            H_cycles=high,
            L_cycles=low,
        )
        trm = TRM(config).eval()
        with torch.no_grad():
            for name, weight in trm.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    weight.mul_(0.25)
        return trm

    def solve(self, steps: int) -> Solve:
        """A traced solve."""
        return Solve(self.trm(), steps).eval()

    def looped(self, steps: int) -> Looped:
        """The same, by `laser_fx.loop`."""
        return Looped(self.trm(), steps).eval()

    def inputs(self, batch: int) -> npt.NDArray[np.int64]:
        """A batch of tokens, the same at every call."""
        return np.random.default_rng(1).integers(1, VOCABULARY, (batch, self.tokens), dtype=np.int64)


@dataclass(frozen=True)
class Plan:
    """What a run covers.

    Args:
        sizes: the first one is what the slow parts (a tracer's export, a file of many steps) are measured on.
        steps: supervision steps.
        batches: rows of a call.
        depths: traced depths of the table of sizes, by `laser_fx.loop`.
        traced: depths that are traced step by step as well, the first size alone.
        peer_steps: supervision steps of `torch.onnx.export`.
        load_steps: supervision steps of the table of load times.
        call_seconds: where a call takes longer, by its cost at one step, the core of the arms runs, a few times.
        core_seconds: where a call takes longer still, one of each is made.
        cell_seconds: rounds of a cell end when they have taken so long; at least `least_rounds` are made.
        function_steps: the most steps as functions, which ONNX Runtime inlines slowly; of the first size, of others.
        rounds: the most rounds.
    """

    name: str
    sizes: tuple[Size, ...]
    steps: tuple[int, ...]
    batches: tuple[int, ...]
    depths: tuple[int, ...]
    traced: tuple[int, ...]
    peer_steps: int
    load_steps: int
    call_seconds: float
    core_seconds: float
    cell_seconds: float
    function_steps: tuple[int, int]
    rounds: int
    least_rounds: int = 3


FULL = Plan(
    name="deploy",
    sizes=(Size(256, 81), Size(512, 81), Size(256, 900), Size(512, 900)),
    steps=(1, 4, 16, 64),
    batches=(1, 8),
    depths=(16, 128, 1024),
    traced=(4, 16),
    peer_steps=4,
    load_steps=16,
    call_seconds=2.5,
    core_seconds=40.0,
    cell_seconds=20.0,
    function_steps=(4, 1),
    rounds=15,
)
QUICK = Plan(
    name="deploy_quick",
    sizes=(Size(64, 16, (2, 2)), Size(128, 16, (2, 2))),
    steps=(1, 4),
    batches=(1, 2),
    depths=(4, 16),
    traced=(1, 2),
    peer_steps=1,
    load_steps=4,
    call_seconds=2.0,
    core_seconds=4.0,
    cell_seconds=4.0,
    function_steps=(4, 1),
    rounds=5,
)
