"""Layers that share weights though no loop over one module is written."""

from __future__ import annotations

from torch import Tensor, nn

from laser_fx.zoo.families.blocks import TransformerBlock

__all__ = ["RepeatedModule", "TiedParameters"]


class _Stack(nn.Module):
    """Runs layers one after another. (batch, length, width) in and out."""

    def __init__(self, layers: list[TransformerBlock]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class RepeatedModule(_Stack):
    """A module list that holds one block ``count`` times.

    >>> layers = RepeatedModule(4).layers
    >>> layers[0] is layers[3]
    True
    """

    def __init__(self, count: int = 4, width: int = 16) -> None:
        super().__init__([TransformerBlock(width, heads=2)] * count)


class TiedParameters(_Stack):
    """``count`` blocks, each a module of its own, whose parameters are those of the first.

    >>> layers = TiedParameters(4).layers
    >>> layers[0] is layers[3], layers[0].up.weight is layers[3].up.weight
    (False, True)
    """

    def __init__(self, count: int = 4, width: int = 16) -> None:
        super().__init__([TransformerBlock(width, heads=2) for _ in range(count)])
        first, *others = (dict(layer.named_modules()) for layer in self.layers)
        for other in others:
            for path, module in other.items():
                for name in module._parameters:
                    module._parameters[name] = first[path]._parameters[name]
