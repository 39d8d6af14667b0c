"""The loop of a rolled graph: a body, run `trip_count` times."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

__all__ = ["RolledLoop"]


class RolledLoop(nn.Module):
    """Runs ``body`` again and again; stands in a rolled graph as a ``call_module`` node.

    Called with ``(*carry, *per_step, *invariants)``. ``body`` takes the carry, this step's per-step values and the
    invariants, and returns the next carry followed by the step outputs. The call returns the final carry followed by
    one list for each step output, the value of step ``t`` at index ``t``. A step output of a loop inside is itself a
    list: lists nest as loops do.

    Args:
        name: the loop's name, ``loop_0``.
        body: one iteration.
        trip_count: how often it runs.
        carry_count: how many of its leading inputs and outputs are carried.
        per_step_count: how many per-step values the body takes. The call has ``trip_count`` arguments for each,
            after the carry: all steps of the first value, then all of the second.

    >>> import torch
    >>> from torch import fx
    >>> def double_and_keep(z, x):
    ...     y = z * 2 + x
    ...     return y, z
    >>> loop = RolledLoop("loop_0", fx.symbolic_trace(double_and_keep), trip_count=3, carry_count=1)
    >>> loop(torch.ones(()), torch.zeros(()))
    (tensor(8.), [tensor(1.), tensor(2.), tensor(4.)])
    """

    body: fx.GraphModule

    def __init__(
        self, name: str, body: fx.GraphModule, trip_count: int, carry_count: int, per_step_count: int = 0
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.trip_count = trip_count
        self.carry_count = carry_count
        self.per_step_count = per_step_count

    def forward(self, *arguments: Any) -> tuple[Any, ...]:
        carry = arguments[: self.carry_count]
        first_invariant = self.carry_count + self.per_step_count * self.trip_count
        streams, invariants = arguments[self.carry_count : first_invariant], arguments[first_invariant:]
        collected: list[tuple[Any, ...]] = []
        for step in range(self.trip_count):
            results = self.body(*carry, *streams[step :: self.trip_count], *invariants)
            carry = results[: self.carry_count]
            collected.append(results[self.carry_count :])
        return (*carry, *(list(values) for values in zip(*collected, strict=True)))

    def extra_repr(self) -> str:
        return f"{self.name}, trip_count={self.trip_count}, carry_count={self.carry_count}"
