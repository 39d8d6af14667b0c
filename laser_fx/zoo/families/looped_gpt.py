"""A looped GPT (arXiv 2301.13196): a stack of causal blocks, run several times, with the input added each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock

__all__ = ["LoopedGPT"]


class LoopedGPT(nn.Module):
    """``loops`` runs of one stack of causal blocks. Input (batch, length), output (batch, length, vocabulary).

    Args:
        loops: runs of the stack.
        layers: blocks of the stack.
        width: features of a token.
        vocabulary: number of different tokens.
        length: longest sequence.
        dropout: share of the features that training drops after each run.

    >>> tuple(LoopedGPT()(torch.ones(2, 5, dtype=torch.int64)).shape)
    (2, 5, 11)
    """

    def __init__(
        self,
        loops: int = 4,
        layers: int = 2,
        width: int = 16,
        vocabulary: int = 11,
        length: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.loops = loops
        self.embed, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads=2, causal=True) for _ in range(layers))
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        x = torch.zeros_like(embedded)
        for _ in range(self.loops):
            x = x + embedded
            for block in self.blocks:
                x = block(x)
            x = self.dropout(x)
        logits: Tensor = self.head(self.norm(x))
        return logits
