"""The loop of a rolled graph: a body, run `trip_count` times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

__all__ = ["RolledLoop"]


class RolledLoop(nn.Module):
    """Runs ``body`` again and again; stands in a rolled graph as a ``call_module`` node.

    Called with ``(*carry, *per_step, *stacked, *invariants)``. ``body`` takes the carry, this step's per-step values,
    this step's rows of the stacked ones, and the invariants; it returns the next carry followed by the step outputs.
    The call returns the final carry followed by one entry for each step output: a list, the value of step ``t`` at
    index ``t``, or for the last ``stacked_outputs`` of them one tensor with the steps in front. A step output of a loop
    inside is itself a list: lists nest as loops do.

    Values that are apart in the captured graph come one by one; a loop that was written with `laser_fx.loop` has them
    stacked, so that its call stays small however often it runs.

    Args:
        name: the loop's name, ``loop_0``.
        body: one iteration.
        trip_count: how often it runs.
        carry_count: how many of its leading inputs and outputs are carried.
        per_step_count: how many per-step values the body takes. The call has ``trip_count`` arguments for each,
            after the carry: all steps of the first value, then all of the second.
        stacked_count: how many more it takes as rows of one tensor (trip_count, …) each.
        stacked_outputs: how many of the last step outputs are stacked into one tensor (trip_count, …) each.

    >>> import torch
    >>> from torch import fx
    >>> def double_and_keep(z, x):
    ...     y = z * 2 + x
    ...     return y, z
    >>> body = fx.symbolic_trace(double_and_keep)
    >>> RolledLoop("loop_0", body, trip_count=3, carry_count=1)(torch.ones(()), torch.zeros(()))
    (tensor(8.), [tensor(1.), tensor(2.), tensor(4.)])
    >>> RolledLoop("loop_0", body, 3, 1, stacked_count=1, stacked_outputs=1)(torch.ones(()), torch.arange(3.0))
    (tensor(12.), tensor([1., 2., 5.]))
    """

    body: fx.GraphModule

    def __init__(
        self,
        name: str,
        body: fx.GraphModule,
        trip_count: int,
        carry_count: int,
        per_step_count: int = 0,
        stacked_count: int = 0,
        stacked_outputs: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.body = body
        self.trip_count = trip_count
        self.carry_count = carry_count
        self.per_step_count = per_step_count
        self.stacked_count = stacked_count
        self.stacked_outputs = stacked_outputs
        self.compiled_body: Callable[..., Any] | None = None
        """What runs in place of the body, and computes the same."""

    @property
    def varying_arguments(self) -> int:
        """How many arguments of the call come before the invariants."""
        return self.carry_count + self.per_step_count * self.trip_count + self.stacked_count

    @property
    def varying_inputs(self) -> int:
        """How many inputs of the body come before the invariants."""
        return self.carry_count + self.per_step_count + self.stacked_count

    def changed(self, **changes: Any) -> RolledLoop:
        """The same loop with other arguments than it was made with."""
        made = {
            "name": self.name,
            "body": self.body,
            "trip_count": self.trip_count,
            "carry_count": self.carry_count,
            "per_step_count": self.per_step_count,
            "stacked_count": self.stacked_count,
            "stacked_outputs": self.stacked_outputs,
        }
        return RolledLoop(**{**made, **changes})

    def forward(self, *arguments: Any) -> tuple[Any, ...]:
        first_stacked = self.varying_arguments - self.stacked_count
        carry, streams = arguments[: self.carry_count], arguments[self.carry_count : first_stacked]
        stacked, invariants = arguments[first_stacked : self.varying_arguments], arguments[self.varying_arguments :]
        rows = [whole.unbind(0) for whole in stacked]
        collected: list[tuple[Any, ...]] = []
        run_body = self.compiled_body or self.body
        for step in range(self.trip_count):
            here = (*streams[step :: self.trip_count], *(row[step] for row in rows))
            results = run_body(*carry, *here, *invariants)
            carry = results[: self.carry_count]
            collected.append(results[self.carry_count :])
        return (*carry, *self._outputs(list(zip(*collected, strict=True))))

    def _outputs(self, values: Sequence[tuple[Any, ...]]) -> list[Any]:
        first = len(values) - self.stacked_outputs
        return [list(v) if position < first else torch.stack(v) for position, v in enumerate(values)]

    def extra_repr(self) -> str:
        return f"{self.name}, trip_count={self.trip_count}, carry_count={self.carry_count}"
