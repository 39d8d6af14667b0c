"""Two operators that mark, in a graph that is being captured, where the body of a structured loop begins and ends.

They live only from tracing to `laser_fx.cut_structured`, which replaces what stands between them by a loop. Run on real
tensors they do what the first step of that loop sees, and what the loop returns if all its steps are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx

__all__ = ["loop_begin", "loop_end"]


@torch.library.custom_op("laser::loop_begin", mutates_args=())
def loop_begin(carry: Sequence[Tensor], stacked: Sequence[Tensor], source: str) -> list[Tensor]:
    """The values that a step takes.

    Args:
        carry: initial values of what is carried.
        stacked: values that differ by step, (trips, …) each.
        source: ``file:line`` of the loop in the model's code.

    Returns:
        The carry, then one row of each stacked value.
    """
    return [*(value.clone() for value in carry), *(value.select(0, 0).clone() for value in stacked)]


@torch.library.custom_op("laser::loop_end", mutates_args=())
def loop_end(carry: Sequence[Tensor], outputs: Sequence[Tensor], trips: int) -> list[Tensor]:
    """What the loop returns.

    Args:
        carry: what the step hands on.
        outputs: what is collected of the step.
        trips: how often the loop runs.

    Returns:
        The final carry, then each output with the steps in front: (trips, …).
    """
    return [*(value.clone() for value in carry), *(torch.stack([value] * trips) for value in outputs)]


@loop_begin.register_fake
def _(carry: Sequence[Tensor], stacked: Sequence[Tensor], source: str) -> list[Tensor]:
    return [*(torch.empty_like(value) for value in carry), *(value.new_empty(value.shape[1:]) for value in stacked)]


@loop_end.register_fake
def _(carry: Sequence[Tensor], outputs: Sequence[Tensor], trips: int) -> list[Tensor]:
    return [*(torch.empty_like(value) for value in carry), *(value.new_empty(trips, *value.shape) for value in outputs)]


# A loop whose results nobody reads may still draw random numbers: the cut decides, not a pass of torch's.
fx.node.has_side_effect(torch.ops.laser.loop_begin.default)
fx.node.has_side_effect(torch.ops.laser.loop_end.default)
