"""Programs with a halting head, made by hand: how many steps a row needs is an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laser_fx.options import Options
from laser_fx.rolled import RolledLoop
from tests.export.conftest import WEIGHTS, D, HandMade, program, random, step, trace


def speed_for(*steps: int) -> Tensor:
    """Speeds with which the rows of `halting` are done after so many steps."""
    return torch.tensor([1.0 / (count - 0.5) for count in steps])


def halting(trips: int = 6, steps: tuple[int, ...] = (2, 4, 3), kind: str = "logits", **fields: Any) -> HandMade:
    """z ← step(z, x), total ← total + speed; done where total > 1. Also the last step's mean.

    ``kind``: what the head is: ``"logits"``, ``"bool"``, ``"half"``, or ``"step"``, made in the body at every step.
    """

    def body(z: Tensor, total: Tensor, x: Tensor, speed: Tensor, w: Tensor, b: Tensor) -> Any:
        following, summed = step(z, x, w, b), total + speed
        return following, summed, following.mean(-1), summed - 1

    loop = RolledLoop("loop_0", trace(body), trip_count=trips, carry_count=2)

    def head(total: Tensor, last: Tensor) -> Tensor:
        kinds = {"logits": total - 1, "bool": total > 1, "half": (total - 1).half(), "step": last}
        return kinds[kind]

    def top(self: Any, w: Tensor, b: Tensor, x: Tensor, speed: Tensor) -> Any:
        out = self.loop_0(x * 0.5, speed * 0, x, speed, w, b)
        return torch.tanh(out[0]), head(out[1], out[3][-1]), out[2][-1] + 1, x

    def unrolled(w: Tensor, b: Tensor, x: Tensor, speed: Tensor) -> Any:
        z, total = x * 0.5, speed * 0
        for _ in range(trips):
            z, total = step(z, x, w, b), total + speed
        return torch.tanh(z), head(total, total - 1), z.mean(-1) + 1, x

    made = program(
        trace(top, loop_0=loop),
        trace(unrolled),
        WEIGHTS,
        {"x": random(len(steps), 3, D, seed=3), "speed": speed_for(*steps)},
        output_names=("y", "halt_logits", "last", "first"),
        options=Options.exact(),
    )
    return made.but(**fields)
