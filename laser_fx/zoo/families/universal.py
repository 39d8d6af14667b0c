"""Universal transformers (arXiv 1807.03819): one block, applied again and again, that is told the step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock

__all__ = ["AdaptiveUniversalTransformer", "UniversalTransformer"]


def _sinusoids(count: int, width: int) -> Tensor:
    """Sines and cosines of the numbers 0 … count − 1, (count, width)."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.outer(torch.arange(count, dtype=torch.float32), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class UniversalTransformer(nn.Module):
    """``steps`` applications of one block; each adds the embedding of its step first. (batch, length, width).

    Args:
        steps: applications of the block.
        width: features of a token.
        embedding: ``"learned"``, a parameter with a row for each step, or ``"sinusoidal"``, a buffer as published.

    >>> tuple(UniversalTransformer()(torch.ones(2, 3, 16)).shape)
    (2, 3, 16)
    """

    step_embedding: Tensor

    def __init__(
        self, steps: int = 4, width: int = 16, embedding: Literal["learned", "sinusoidal"] = "sinusoidal"
    ) -> None:
        super().__init__()
        self.steps = steps
        self.block = TransformerBlock(width, heads=2)
        if embedding == "learned":
            self.step_embedding = nn.Parameter(torch.randn(steps, width))
        else:
            self.register_buffer("step_embedding", _sinusoids(steps, width))

    def forward(self, x: Tensor) -> Tensor:
        for t in range(self.steps):
            x = self.block(x + self.step_embedding[t])
        return x


class AdaptiveUniversalTransformer(UniversalTransformer):
    """Adaptive computation time by masks: a token that has halted keeps its state while others go on.

    Every token adds up its halting probabilities; at the step where the sum would pass ``threshold`` it takes the
    remainder and halts. The output is the average of its states, weighted by these probabilities: (batch, length,
    width), and the ponder cost (batch, length): updates and remainder.

    >>> y, cost = AdaptiveUniversalTransformer()(torch.ones(2, 3, 16))
    >>> tuple(y.shape), tuple(cost.shape)
    ((2, 3, 16), (2, 3))
    """

    def __init__(self, steps: int = 4, width: int = 16, threshold: float = 0.9) -> None:
        super().__init__(steps, width)
        self.threshold = threshold
        self.halt = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        halting = remainders = updates = torch.zeros_like(x[..., 0])
        average = torch.zeros_like(x)
        for t in range(self.steps):
            state = x + self.step_embedding[t]
            chance = torch.sigmoid(self.halt(state)).squeeze(-1)
            running = (halting < 1.0).to(x.dtype)
            stops = (halting + chance * running > self.threshold).to(x.dtype) * running
            goes_on = running - stops
            halting = halting + chance * goes_on
            remainders = remainders + stops * (1.0 - halting)
            halting = halting + stops * remainders
            updates = updates + running
            weight = (chance * goes_on + stops * remainders).unsqueeze(-1)
            x = self.block(state)
            average = x * weight + average * (1.0 - weight)
        return average, updates + remainders
