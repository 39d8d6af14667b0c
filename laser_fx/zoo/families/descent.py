"""Gradient descent unrolled as layers (learned ISTA, Gregor and LeCun 2010): sparse codes of a signal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UnrolledDescent"]


class UnrolledDescent(nn.Module):
    """Proximal gradient steps on ``½‖Dz − y‖² + λ‖z‖₁`` with a learned dictionary and learned step sizes.

    Input y (batch, signal), output z (batch, atoms).

    Args:
        steps: gradient steps.
        signal: features of a signal.
        atoms: features of a code.
        per_step: a step size and a threshold of its own for each step, as in learned ISTA; else one for all.

    >>> tuple(UnrolledDescent()(torch.ones(2, 6)).shape)
    (2, 10)
    """

    def __init__(self, steps: int = 5, signal: int = 6, atoms: int = 10, per_step: bool = False) -> None:
        super().__init__()
        self.steps, self.per_step = steps, per_step
        self.dictionary = nn.Parameter(torch.randn(signal, atoms) / atoms)
        self.step_size = nn.Parameter(torch.full((steps,) if per_step else (), 0.3))
        self.threshold = nn.Parameter(torch.full((steps,) if per_step else (), 0.05))

    def forward(self, y: Tensor) -> Tensor:
        z = y.new_zeros(y.shape[0], self.dictionary.shape[1])
        for t in range(self.steps):
            size, threshold = (p[t] if self.per_step else p for p in (self.step_size, self.threshold))
            gradient = (F.linear(z, self.dictionary) - y) @ self.dictionary
            z = z - size * gradient
            z = torch.sign(z) * F.relu(z.abs() - threshold)
        return z
