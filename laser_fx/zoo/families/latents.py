"""Tiny Recursive Models with another number of latent states (the ablations of arXiv 2510.04871, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laser_fx.zoo.layers import CastedEmbedding, CastedLinear
from laser_fx.zoo.trm import ReasoningModule, TRMConfig

__all__ = ["ManyLatents", "SingleLatent"]


class _Latents(nn.Module):
    """Embedding, network and head, and a buffer with the initial value of each latent."""

    init: Tensor

    def __init__(self, config: TRMConfig, latents: int) -> None:
        super().__init__()
        self.config = config
        self.embed = CastedEmbedding(config.vocab_size, config.hidden_size, 1.0, config.dtype)
        self.net = ReasoningModule(config)
        self.head = CastedLinear(config.hidden_size, config.vocab_size)
        self.register_buffer("init", torch.randn(latents, config.hidden_size))


class SingleLatent(_Latents):
    """One state is answer and latent at once: ``H_cycles`` times ``L_cycles + 1`` updates ``z = net(z + x)``.

    Gradients go through the last cycle only. Input (batch, seq_len) of token numbers, output logits
    (batch, seq_len, vocab_size).

    >>> config = TRMConfig(seq_len=4, vocab_size=5, L_layers=1, hidden_size=16, num_heads=2)
    >>> tuple(SingleLatent(config)(torch.ones(2, 4, dtype=torch.int64)).shape)
    (2, 4, 5)
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__(config, latents=1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        z = self.init[0].expand_as(x)
        with torch.no_grad():
            for _ in range(self.config.H_cycles - 1):
                z = self._cycle(z, x)
        logits: Tensor = self.head(self._cycle(z, x))
        return logits

    def _cycle(self, z: Tensor, x: Tensor) -> Tensor:
        for _ in range(self.config.L_cycles + 1):
            z = self.net(z, x, None)
        return z


class ManyLatents(_Latents):
    """An answer y, and ``L_cycles`` latents in a list: each is updated once a cycle, in turn, from all the others.

    ``H_cycles`` times: ``z[i] = net(z[i], y + x + others)`` for every i, then ``y = net(y, sum of z)``. Gradients go
    through all cycles if ``config.full_gradient`` is set, else through the last one. Input (batch, seq_len) of token
    numbers, output logits (batch, seq_len, vocab_size).

    >>> config = TRMConfig(seq_len=4, vocab_size=5, L_cycles=3, L_layers=1, hidden_size=16, num_heads=2)
    >>> tuple(ManyLatents(config)(torch.ones(2, 4, dtype=torch.int64)).shape)
    (2, 4, 5)
    """

    def __init__(self, config: TRMConfig) -> None:
        super().__init__(config, latents=config.L_cycles + 1)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        y, *latents = (row.expand_as(x) for row in self.init.unbind())
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.full_gradient):
            for _ in range(self.config.H_cycles - 1):
                y = self._cycle(y, latents, x)
        logits: Tensor = self.head(self._cycle(y, latents, x))
        return logits

    def _cycle(self, y: Tensor, latents: list[Tensor], x: Tensor) -> Tensor:
        for i, latent in enumerate(latents):
            others = sum(latents[:i] + latents[i + 1 :], start=y + x)
            latents[i] = self.net(latent, others, None)
        answer: Tensor = self.net(y, sum(latents[1:], start=latents[0]), None)
        return answer
