"""What a training graph keeps for backward, value by value."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from torch import Tensor, fx

from laser_fx.memory.choose import Kept
from laser_fx.memory.fit import Part, parts_of
from laser_fx.memory.operators import size
from laser_fx.memory.segment import Segment
from laser_fx.memory.sites import linear_inputs
from laser_fx.memory.values import Values

__all__ = ["Plan", "PlanRow", "plan_of"]

_WIDTH = 140


@dataclass(frozen=True)
class PlanRow:
    """One value of a body.

    Args:
        segment: the loop, ``loop_0``; ``top`` outside of loops.
        value: its name in the traced graph of the body.
        operator: what makes it, or ``input``.
        shape: its sizes.
        codec: ``"exact"`` where it is kept, ``"recompute"`` where backward makes it again, else the name of a codec of
            `laser_fx.memory.codecs` or `laser_fx.memory.few_bits`.
        before: bytes that eager keeps of it, over all steps.
        after: bytes that the plan keeps of it, over all steps.
        time: seconds that making it again, or encoding and decoding it, takes over all steps, as measured on this
            machine for each operator by itself.
        error: relative error of the worst parameter's gradient when this value alone is kept so, as measured on the
            example inputs; None where that was not asked for, 0.0 for exact ones.
        site: name of the linear whose input it is; empty for other values.
    """

    segment: str
    value: str
    operator: str
    shape: tuple[int, ...]
    codec: str
    before: int
    after: int
    time: float = 0.0
    error: float | None = 0.0
    site: str = ""


@dataclass(frozen=True)
class Plan:
    """What one training call keeps for backward on the example inputs, in eager and under the plan.

    Parameters, buffers and the model's inputs live anyway and are not counted. A carry is one tensor with the result
    of the step before, and is counted once: totals may be less than the sum of the rows.

    Args:
        rows: every value that eager or the plan keeps.
        before: bytes in eager.
        after: bytes under the plan.
        error: relative error of the worst parameter's gradient under the plan, as measured on the example inputs; 0.0
            for exact plans, None where it was not measured.

    >>> row = PlanRow("loop_0", "silu", "aten.silu", (2, 8), "recompute", 640, 0)
    >>> plan = Plan((row,), 1000, 360)
    >>> plan.fraction
    0.36
    >>> print(plan)
    360 B of 1000 B kept for backward: 36 %, of the inputs of linears 100 %
    segment  value  operator   shape  codec      before  after    time  error
    loop_0   silu   aten.silu  2 × 8  recompute   640 B    0 B  0.0 ms      0
    """

    rows: tuple[PlanRow, ...]
    before: int
    after: int
    error: float | None = 0.0

    @property
    def fraction(self) -> float:
        """What the plan keeps, of what eager keeps."""
        return self.after / self.before if self.before else 1.0

    @property
    def site_fraction(self) -> float:
        """The same of the inputs of linears alone: what papers on low-rank activations report."""
        sites = [row for row in self.rows if row.site and row.before]
        before = sum(row.before for row in sites)
        return sum(row.after for row in sites) / before if before else 1.0

    def __str__(self) -> str:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for title in ("segment", "value", "operator", "shape", "codec"):
            table.add_column(title)
        for title in ("before", "after", "time", "error"):
            table.add_column(title, justify="right")
        for row in self.rows:
            sizes = " × ".join(map(str, row.shape))
            numbers = (bytes_(row.before), bytes_(row.after), f"{1e3 * row.time:.1f} ms", _error(row.error))
            table.add_row(row.segment, row.value, row.operator, sizes, row.codec, *numbers)
        buffer = io.StringIO()
        console = Console(file=buffer, width=_WIDTH, color_system=None, legacy_windows=False)
        console.print(self._headline())
        console.print(table)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())

    def _headline(self) -> str:
        kept = f"{bytes_(self.after)} of {bytes_(self.before)} kept for backward: {100 * self.fraction:.3g} %"
        kept = f"{kept}, of the inputs of linears {100 * self.site_fraction:.3g} %"
        return f"{kept}; gradients off by {_error(self.error)}" if self.error else kept


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"


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


def plan_of(segments: Sequence[Segment], error: float | None = 0.0) -> Plan:
    """What the segments keep of the call that they ran last.

    Args:
        segments: of one training graph.
        error: of the gradients, as measured when the plan was made.
    """
    rows: list[PlanRow] = []
    before = after = 0
    for part in parts_of(segments):
        kept = part.kept(part.segment.policy)
        rows.extend(_rows(part, kept))
        before += part.eager_bytes
        after += part.segment.times * part.values.total(kept)
    return Plan(tuple(rows), before, after, error)


def _rows(part: Part, kept: Kept) -> Iterator[PlanRow]:
    values, times, errors = part.values, part.segment.times, part.segment.errors
    sites = linear_inputs(values, part.segment.linears)
    before = set(values.kept_by_eager)
    for node in values.joint.graph.nodes:
        weight = times * values.share(node)
        if (node in before or node in kept) and (weight or kept.get(node)):
            codec = kept.get(node)
            yield PlanRow(
                segment=part.segment.name,
                value=node.name,
                operator="input" if node.op == "placeholder" else str(node.target).removesuffix(".default"),
                shape=_shape(node),
                codec="recompute" if node not in kept else codec.name if codec else "exact",
                before=weight if node in before else 0,
                after=times * values.kept_bytes(node, codec) if node in kept else 0,
                time=times * 1e-9 * _time(values, node, kept),
                error=errors.get(node.name) if codec else 0.0,
                site=sites.get(node.name, ""),
            )


def _time(values: Values, node: fx.Node, kept: Kept) -> int:
    if node not in kept:
        return values.time(node)
    codec = kept[node]
    return values.encoded(node, codec).time if codec else 0


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else (size(node),)
