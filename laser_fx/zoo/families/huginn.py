"""A depth-recurrent language model in the shape of Huginn (arXiv 2502.05171): prelude, recurrent core, coda."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock

__all__ = ["Huginn"]


class Huginn(nn.Module):
    """Untied layers around a core that is run ``steps`` times on a state, with the prelude's output injected each time.

    Input ``tokens`` (batch, length) and optionally ``state`` (batch, length, width), the state to begin with; without
    one it is drawn from a normal distribution, in training and in evaluation, as published. Output logits
    (batch, length, vocabulary).

    Args:
        steps: runs of the core.
        width: features of a token.
        vocabulary: number of different tokens.

    >>> tuple(Huginn()(torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 5, 16)).shape)
    (2, 5, 11)
    """

    def __init__(self, steps: int = 4, width: int = 16, vocabulary: int = 11) -> None:
        super().__init__()
        self.steps = steps
        self.embed, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
        self.prelude, self.core, self.coda = (_layers(width, count) for count in (1, 2, 1))
        self.adapter = nn.Linear(2 * width, width, bias=False)
        self.norm_core, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> Tensor:
        injected = self.prelude(self.embed(tokens))
        if state is None:
            state = torch.randn_like(injected)
        for _ in range(self.steps):
            state = self.norm_core(self.core(self.adapter(torch.cat((state, injected), dim=-1))))
        logits: Tensor = self.head(self.norm_out(self.coda(state)))
        return logits


def _layers(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(TransformerBlock(width, heads=2, causal=True) for _ in range(count)))
