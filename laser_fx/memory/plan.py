"""What a training graph keeps for backward, value by value."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from torch import Tensor, fx

from laser_fx.memory.values import Values, size

__all__ = ["Plan", "PlanRow", "rows_of"]

_WIDTH = 120


@dataclass(frozen=True)
class PlanRow:
    """One value of a body.

    Args:
        segment: the loop, ``loop_0``; ``top`` outside of loops.
        value: its name in the traced graph of the body.
        operator: what makes it, or ``input``.
        shape: its sizes.
        codec: ``"exact"`` where it is kept, ``"recompute"`` where backward makes it again.
        before: bytes that eager keeps of it, over all steps.
        after: bytes that the plan keeps of it, over all steps.
    """

    segment: str
    value: str
    operator: str
    shape: tuple[int, ...]
    codec: Literal["exact", "recompute"]
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What one training call keeps for backward on the example inputs, in eager and under the plan.

    Parameters, buffers and the model's inputs live anyway and are not counted. A carry is one tensor with the result
    of the step before, and is counted once: totals may be less than the sum of the rows.

    Args:
        rows: every value that eager or the plan keeps.
        before: bytes in eager.
        after: bytes under the plan.

    >>> row = PlanRow("loop_0", "silu", "aten.silu", (2, 8), "recompute", 640, 0)
    >>> plan = Plan((row,), 1000, 360)
    >>> plan.fraction
    0.36
    >>> print(plan)
    360 B of 1000 B kept for backward: 36 %
    segment  value  operator   shape  codec      before  after
    loop_0   silu   aten.silu  2 × 8  recompute   640 B    0 B
    """

    rows: tuple[PlanRow, ...]
    before: int
    after: int

    @property
    def fraction(self) -> float:
        """What the plan keeps, of what eager keeps."""
        return self.after / self.before if self.before else 1.0

    def __str__(self) -> str:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for title in ("segment", "value", "operator", "shape", "codec"):
            table.add_column(title)
        for title in ("before", "after"):
            table.add_column(title, justify="right")
        for row in self.rows:
            sizes = " × ".join(map(str, row.shape))
            numbers = (bytes_(row.before), bytes_(row.after))
            table.add_row(row.segment, row.value, row.operator, sizes, row.codec, *numbers)
        buffer = io.StringIO()
        console = Console(file=buffer, width=_WIDTH, color_system=None, legacy_windows=False)
        console.print(f"{bytes_(self.after)} of {bytes_(self.before)} kept for backward: {100 * self.fraction:.0f} %")
        console.print(table)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def bytes_(value: int) -> str:
    """
    >>> bytes_(0), bytes_(1536)
    ('0 B', '1.50 KiB')
    """
    amount, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:.2f} {units[0]}"


def rows_of(segment: str, times: int, values: Values, kept: Sequence[fx.Node]) -> Iterator[PlanRow]:
    """The rows of one segment that runs so often."""
    before, after = set(values.kept_by_eager), set(kept)
    for node in values.joint.graph.nodes:
        weight = times * values.share(node)
        if node in before | after and weight:
            yield PlanRow(
                segment=segment,
                value=node.name,
                operator="input" if node.op == "placeholder" else str(node.target).removesuffix(".default"),
                shape=_shape(node),
                codec="exact" if node in after else "recompute",
                before=weight if node in before else 0,
                after=weight if node in after else 0,
            )


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else (size(node),)
