"""Programs with a halting head, made by hand: how many steps a row needs is an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laser_fx.options import Options
from laser_fx.rolled import RolledLoop
from tests.export.conftest import WEIGHTS, D, HandMade, program, random, step, trace


def speed_for(*steps: int) -> Tensor:
    """Speeds with which the rows of `halting` are done after so many steps."""
    return torch.tensor([1.0 / (count - 0.5) for count in steps])


def inputs_for(*steps: int) -> tuple[Tensor, Tensor]:
    """Inputs of `halting` of which the rows are done after so many steps."""
    return random(len(steps), 3, D, seed=3), speed_for(*steps)


EXTRAS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "last": lambda z, means, totals: means[-1] + 1,
    "third": lambda z, means, totals: means[2] + 1,
    "last but one": lambda z, means, totals: means[-2] + 1,
    "all": lambda z, means, totals: means,
    "total": lambda z, means, totals: z.mean(),
    "collected total": lambda z, means, totals: totals[-1] + 1,
}
"""What `halting` returns besides: of the last z, and of the means of its rows and of all of it, step by step."""


def halting(
    trips: int = 6,
    steps: tuple[int, ...] = (2, 4, 3),
    kind: str = "logits",
    extra: str = "last",
    couples: bool = False,
    counts: bool = False,
    dynamic: bool = True,
) -> HandMade:
    """z ← step(z, x), total ← total + speed; done where total > 1.

    Args:
        kind: what the head is: ``"logits"``, ``"bool"``, ``"half"``, or ``"step"``, made in the body at every step.
        extra: one more output, of `EXTRAS`.
        couples: whether a row reads the others.
        counts: whether the loop carries a number for the whole batch.
        dynamic: whether the batch is open.
    """

    def follow(z: Tensor, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return step(z - z.mean(0) if couples else z, x, w, b)

    def body(z: Tensor, total: Tensor, x: Tensor, speed: Tensor, w: Tensor, b: Tensor) -> Any:
        following, summed = follow(z, x, w, b), total + speed
        return following, summed, following.mean(-1), summed - 1, following.mean()

    def counting(z: Tensor, total: Tensor, count: Tensor, x: Tensor, speed: Tensor, w: Tensor, b: Tensor) -> Any:
        following, summed, *seen = body(z, total, x, speed, w, b)
        return following, summed, count + 1, *seen

    made = trace(counting if counts else body)
    loop = RolledLoop("loop_0", made, trip_count=trips, carry_count=3 if counts else 2)

    def head(total: Tensor, last: Tensor) -> Tensor:
        kinds = {"logits": total - 1, "bool": total > 1, "half": (total - 1).half(), "step": last}
        return kinds[kind]

    def top(self: Any, w: Tensor, b: Tensor, count: Tensor, x: Tensor, speed: Tensor) -> Any:
        carry = (x * 0.5, speed * 0, count) if counts else (x * 0.5, speed * 0)
        out = self.loop_0(*carry, x, speed, w, b)
        first = 3 if counts else 2
        more = EXTRAS[extra](out[0], out[first], out[first + 2])
        return torch.tanh(out[0]), head(out[1], out[first + 1][-1]), more, x

    def unrolled(w: Tensor, b: Tensor, count: Tensor, x: Tensor, speed: Tensor) -> Any:
        z, total, means, totals = x * 0.5, speed * 0, [], []
        for _ in range(trips):
            z, total = follow(z, x, w, b), total + speed
            means.append(z.mean(-1))
            totals.append(z.mean())
        return torch.tanh(z), head(total, total - 1), EXTRAS[extra](z, means, totals), x

    tensors = dict(zip(("x", "speed"), inputs_for(*steps), strict=True))
    weights = {**WEIGHTS, "count": torch.tensor(0)}
    names = ("y", "halt_logits", "extra", "first")
    return program(
        trace(top, loop_0=loop),
        trace(unrolled),
        weights,
        tensors,
        dynamic=dynamic,
        output_names=names,
        options=Options.exact(),
    )
