"""A deep equilibrium model (arXiv 1909.01377) whose solver is unrolled for a fixed number of iterations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["UnrolledEquilibrium"]


class UnrolledEquilibrium(nn.Module):
    """Damped fixed-point iteration ``z ← z + damping · (f(z, x) − z)`` from zero. (batch, features) in and out.

    Also returned: the residual ``‖f(z, x) − z‖`` of every iteration, each (batch,).

    >>> z, residuals = UnrolledEquilibrium()(torch.ones(2, 8))
    >>> tuple(z.shape), len(residuals)
    ((2, 8), 6)
    """

    def __init__(self, iterations: int = 6, features: int = 8, damping: float = 0.7) -> None:
        super().__init__()
        self.iterations, self.damping = iterations, damping
        self.state, self.input = nn.Linear(features, features), nn.Linear(features, features, bias=False)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        z, residuals = torch.zeros_like(x), []
        for _ in range(self.iterations):
            change = self.norm(torch.relu(self.state(z) + self.input(x))) - z
            residuals.append(change.norm(dim=-1))
            z = z + self.damping * change
        return z, residuals
