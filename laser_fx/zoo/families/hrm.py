"""The Hierarchical Reasoning Model (arXiv 2506.21734): a slow module around a fast one, gradients of one step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock

__all__ = ["HRM"]


class _Level(nn.Module):
    """One recurrent module: the injection is added to the state, then the blocks run."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(layers))

    def forward(self, state: Tensor, injection: Tensor) -> Tensor:
        state = state + injection
        for block in self.blocks:
            state = block(state)
        return state


class HRM(nn.Module):
    """One segment of the model: ``cycles`` times (``inner_cycles`` updates of z_L, one of z_H), then the head.

    All updates but the last of each state run without gradients, as published. Input (batch, length) of token numbers,
    output logits (batch, length, vocabulary).

    Args:
        cycles: updates of the slow state.
        inner_cycles: updates of the fast state before each of them.
        width: features of a token.
        vocabulary: number of different tokens.

    >>> tuple(HRM()(torch.ones(2, 5, dtype=torch.int64)).shape)
    (2, 5, 11)
    """

    H_init: Tensor
    L_init: Tensor

    def __init__(self, cycles: int = 3, inner_cycles: int = 3, width: int = 16, vocabulary: int = 11) -> None:
        super().__init__()
        self.cycles, self.inner_cycles = cycles, inner_cycles
        self.embed, self.head = nn.Embedding(vocabulary, width), nn.Linear(width, vocabulary, bias=False)
        self.H_level, self.L_level = _Level(width, 2, layers=1), _Level(width, 2, layers=1)
        self.register_buffer("H_init", torch.randn(width))
        self.register_buffer("L_init", torch.randn(width))

    def forward(self, tokens: Tensor) -> Tensor:
        injected = self.embed(tokens)
        z_H, z_L = self.H_init.expand_as(injected), self.L_init.expand_as(injected)
        with torch.no_grad():
            for cycle in range(self.cycles):
                last = cycle == self.cycles - 1
                for _ in range(self.inner_cycles - last):
                    z_L = self.L_level(z_L, z_H + injected)
                if not last:
                    z_H = self.H_level(z_H, z_L)
        z_L = self.L_level(z_L, z_H + injected)
        logits: Tensor = self.head(self.H_level(z_H, z_L))
        return logits
