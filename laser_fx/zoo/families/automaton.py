"""A neural cellular automaton (Growing Neural Cellular Automata, distill.pub/2020/growing-ca)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CellularAutomaton"]


class CellularAutomaton(nn.Module):
    """``steps`` updates of a grid by one rule: each changes a random part of the cells, and clears dead ones.

    Input and output (batch, channels, height, width); channel 3 says how alive a cell is.

    Args:
        steps: updates.
        channels: numbers of a cell, at least 4.
        fire_rate: chance of a cell to be updated in a step. In evaluation, all cells are if ``always_random`` is off.
        always_random: draw masks in evaluation too, as published.

    >>> tuple(CellularAutomaton()(torch.ones(2, 6, 5, 5)).shape)
    (2, 6, 5, 5)
    """

    filters: Tensor

    def __init__(self, steps: int = 4, channels: int = 6, fire_rate: float = 0.5, always_random: bool = True) -> None:
        super().__init__()
        self.steps, self.fire_rate, self.always_random = steps, fire_rate, always_random
        self.hidden, self.update = nn.Conv2d(3 * channels, 16, 1), nn.Conv2d(16, channels, 1, bias=False)
        sobel = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])) / 8.0
        identity = torch.zeros(3, 3)
        identity[1, 1] = 1.0
        filters = torch.stack((identity, sobel, sobel.T)).unsqueeze(1)
        self.register_buffer("filters", filters.repeat(channels, 1, 1, 1))

    def forward(self, grid: Tensor) -> Tensor:
        for _ in range(self.steps):
            grid = self._step(grid)
        return grid

    def _step(self, grid: Tensor) -> Tensor:
        lived = _alive(grid)
        perceived = F.conv2d(grid, self.filters, padding=1, groups=grid.shape[1])
        change = self.update(F.relu(self.hidden(perceived)))
        if self.training or self.always_random:
            change = change * (torch.rand_like(grid[:, :1]) < self.fire_rate).to(grid.dtype)
        grid = grid + change
        return grid * (lived & _alive(grid)).to(grid.dtype)


def _alive(grid: Tensor) -> Tensor:
    """Cells with a living neighbour, (batch, 1, height, width) bool."""
    return F.max_pool2d(grid[:, 3:4], kernel_size=3, stride=1, padding=1) > 0.1
