"""Optical flow by recurrent refinement, in the shape of RAFT (arXiv 2003.12039)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RAFT"]


class RAFT(nn.Module):
    """``iterations`` updates of a flow field by a convolutional GRU that looks up correlations where the flow points.

    Input two images (batch, 3, height, width), output the flow (batch, 2, height, width) after every update. As
    published, gradients do not go from one update to the next through the coordinates.

    Args:
        iterations: updates.
        width: features of a pixel.
        radius: the lookup is a square of ``2 · radius + 1`` points a side.

    >>> flows = RAFT()(torch.ones(2, 3, 6, 6), torch.ones(2, 3, 6, 6))
    >>> len(flows), tuple(flows[-1].shape)
    (4, (2, 2, 6, 6))
    """

    offsets: Tensor

    def __init__(self, iterations: int = 4, width: int = 8, radius: int = 1) -> None:
        super().__init__()
        self.iterations = iterations
        side = torch.arange(-radius, radius + 1, dtype=torch.float32)
        self.register_buffer("offsets", torch.cartesian_prod(side, side))
        self.features, self.context = _conv(3, width), _conv(3, 2 * width)
        self.motion = _conv(len(self.offsets) + 2, width)
        self.gates, self.candidate = _conv(3 * width, 2 * width), _conv(3 * width, width)
        self.flow_head = _conv(width, 2)

    def forward(self, first: Tensor, second: Tensor) -> list[Tensor]:
        volume = self._correlations(self.features(first), self.features(second))
        hidden, context = self.context(first).chunk(2, dim=1)
        hidden, context = torch.tanh(hidden), F.relu(context)
        start = _pixels(first)
        coordinates, flows = start, []
        for _ in range(self.iterations):
            coordinates = coordinates.detach()
            motion = self._motion(volume, coordinates, coordinates - start)
            hidden = self._gru(hidden, torch.cat((motion, context), dim=1))
            coordinates = coordinates + self.flow_head(hidden)
            flows.append(coordinates - start)
        return flows

    @staticmethod
    def _correlations(first: Tensor, second: Tensor) -> Tensor:
        """Correlation of every pixel of one image with every pixel of the other: (batch · pixels, 1, height, width)."""
        batch, width, height, wide = first.shape
        volume: Tensor = first.flatten(2).transpose(1, 2) @ second.flatten(2) / width**0.5
        return volume.reshape(batch * height * wide, 1, height, wide)

    def _motion(self, volume: Tensor, coordinates: Tensor, flow: Tensor) -> Tensor:
        batch, _, height, wide = coordinates.shape
        centres = coordinates.permute(0, 2, 3, 1).reshape(-1, 1, 1, 2)
        points = centres + self.offsets.view(1, 1, -1, 2)
        across, down = points.split(1, dim=-1)
        grid = torch.cat((2.0 * across / (wide - 1) - 1.0, 2.0 * down / (height - 1) - 1.0), dim=-1)
        looked_up = F.grid_sample(volume, grid, align_corners=True)
        correlations = looked_up.reshape(batch, height, wide, -1).permute(0, 3, 1, 2)
        motion: Tensor = F.relu(self.motion(torch.cat((correlations, flow), dim=1)))
        return motion

    def _gru(self, hidden: Tensor, x: Tensor) -> Tensor:
        update, reset = torch.sigmoid(self.gates(torch.cat((hidden, x), dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat((reset * hidden, x), dim=1)))
        new: Tensor = (1.0 - update) * hidden + update * candidate
        return new


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def _pixels(image: Tensor) -> Tensor:
    """Coordinates (x, y) of every pixel, (batch, 2, height, width)."""
    batch, _, height, width = image.shape
    rows, columns = (torch.arange(n, dtype=image.dtype, device=image.device) for n in (height, width))
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))
    return grid.unsqueeze(0).expand(batch, -1, -1, -1)
