"""Recurrent networks, unrolled over time in Python: one cell for all time steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["UnrolledGRU", "UnrolledLSTM"]


class UnrolledGRU(nn.Module):
    """A GRU cell over a sequence. Input (batch, length, features), output all hidden states (batch, length, width).

    >>> tuple(UnrolledGRU()(torch.ones(2, 5, 6)).shape)
    (2, 5, 8)
    """

    def __init__(self, features: int = 6, width: int = 8) -> None:
        super().__init__()
        self.width, self.cell = width, nn.GRUCell(features, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden, states = x.new_zeros(x.shape[0], self.width), []
        for t in range(x.shape[1]):
            hidden = self.cell(x[:, t], hidden)
            states.append(hidden)
        return torch.stack(states, dim=1)


class UnrolledLSTM(nn.Module):
    """An LSTM cell over a sequence, its gates written out.

    Input (batch, length, features), output all hidden states (batch, length, width) and the last cell state
    (batch, width).

    >>> hidden, cell = UnrolledLSTM()(torch.ones(2, 5, 6))
    >>> tuple(hidden.shape), tuple(cell.shape)
    ((2, 5, 8), (2, 8))
    """

    def __init__(self, features: int = 6, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.input, self.recurrent = nn.Linear(features, 4 * width), nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = cell = x.new_zeros(x.shape[0], self.width)
        states = []
        for t in range(x.shape[1]):
            gates = self.input(x[:, t]) + self.recurrent(hidden)
            enter, forget, update, leave = gates.chunk(4, dim=-1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(update)
            hidden = torch.sigmoid(leave) * torch.tanh(cell)
            states.append(hidden)
        return torch.stack(states, dim=1), cell
