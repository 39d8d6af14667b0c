"""The arms: what stands in a model's place while it trains. The weights are the model's own in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.options import Options

__all__ = ["ARMS", "CONTROLS", "Arm", "compiled_of", "from_int8", "nudge", "to_int8"]


@dataclass(frozen=True)
class Arm:
    """One way to train a model.

    Args:
        title: what it is, in a few words.
        put_on: takes the model's inner module, and returns what is called in its place.
        settings: what `laser_fx.Options` got; None where nothing was compiled.
    """

    title: str
    put_on: Callable[[nn.Module], nn.Module]
    settings: Mapping[str, Any] | None = None


def _compiled(title: str, **settings: Any) -> Arm:
    # Options are made when they are needed: an arm that this version does not know hinders no other one.
    return Arm(title, lambda inner: laser_fx.compile(inner, options=Options.exact(**settings)), settings)


def _laser(fidelity: float, tracking: str) -> Arm:
    title = f'`memory="laser", tracking="{tracking}", fidelity={fidelity:g}`'
    return _compiled(title, memory="laser", tracking=tracking, fidelity=fidelity)


@torch.no_grad()
def nudge(inner: nn.Module) -> nn.Module:
    """The same module, the weights of its blocks moved by a part in a million: a difference that cannot matter.

    Training multiplies any difference. What this one grows to is what chance alone makes of two runs.
    """
    for parameter in inner.parameters():
        parameter.mul_(1.0 + 1e-6)
    return inner


def _in_int8(inner: nn.Module) -> nn.Module:
    """The same module, saving for backward eight bits a number and one float32 scale a row, as peers do by hooks."""
    forward = inner.forward

    def hooked(*args: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(to_int8, from_int8):
            return forward(*args)

    inner.forward = hooked  # type: ignore[method-assign]
    return inner


Packed = Tensor | tuple[Tensor, Tensor]


def to_int8(tensor: Tensor) -> Packed:
    """A float tensor of two dimensions or more in eight bits, scaled by row; anything else, and weights, as it is."""
    is_weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
    if is_weight or not tensor.is_floating_point() or tensor.ndim < 2:
        return tensor
    scale = tensor.detach().abs().amax(-1, keepdim=True).div(127.0).clamp(min=torch.finfo(torch.float32).tiny)
    return (tensor.detach() / scale).round().to(torch.int8), scale


def from_int8(packed: Packed) -> Tensor:
    """What `to_int8` packed, in float32."""
    return packed if isinstance(packed, Tensor) else packed[0] * packed[1]


ARMS = {
    "eager": Arm("eager", lambda inner: inner),
    "nudged": Arm("eager, initial weights × (1 + 1e-6)", nudge),
    "lean": _compiled('`memory="lean"`, exact but for the rounding of faster products', memory="lean"),
    "lean bitwise": _compiled('`memory="lean", products="eager"`', memory="lean", products="eager"),
    "int8": Arm("int8 hooks on all saved tensors", _in_int8),
    "min": _compiled(
        '`memory="min", approximate=True, max_gradient_error=0.05`',
        memory="min",
        approximate=True,
        max_gradient_error=0.05,
    ),
    "laser 0.99": _laser(0.99, "step"),
    "laser 0.999": _laser(0.999, "step"),
    "pooled 0.99": _laser(0.99, "segment"),
    "pooled 0.999": _laser(0.999, "segment"),
}
"""By name. The first one is what all others are compared with."""

CONTROLS = ("eager", "nudged")
"""Arms that save what eager saves."""


def compiled_of(worn: nn.Module) -> CompiledModel | None:
    """What an arm put on, where it is a compiled model."""
    return worn if isinstance(worn, CompiledModel) else None
