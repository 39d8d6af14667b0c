"""Values that a ``Loop`` which is built already is made to carry too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from laser_fx.export.halting import body_of, carry_count

__all__ = ["Carried", "with_carries"]


@dataclass(frozen=True)
class Carried:
    """One more value that a loop carries.

    Args:
        name: its name among the loop's results, after the loop's own.
        initial: a value of the outer graph.
        before: what the body reads of the step before; belongs to no graph yet.
        after: what the body makes of it.
    """

    name: str
    initial: ir.Value
    before: ir.Value
    after: ir.Value


def with_carries(graph: ir.Graph, loop: ir.Node, more: Sequence[Carried]) -> list[ir.Value]:
    """A loop in the place of another one, which carries more.

    Args:
        graph: where the loop stands.
        loop: it is removed; its body goes on in the new one.
        more: what comes after the values that it carries already.

    Returns:
        what the loop carries of these at its end: outputs of the new loop.
    """
    count, body = carry_count(loop), body_of(loop)
    body.inputs.extend(carried.before for carried in more)
    for position, carried in enumerate(more, start=1 + count):
        body.outputs.insert(position, carried.after)
    new = ir.Node(
        "",
        "Loop",
        [*loop.inputs, *(carried.initial for carried in more)],
        loop.attributes.values(),
        num_outputs=len(loop.outputs) + len(more),
        name=loop.name,
    )
    kept = [*new.outputs[:count], *new.outputs[count + len(more) :]]
    for old, value in zip(loop.outputs, kept, strict=True):
        value.name, value.type, value.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    final = list(new.outputs[count : count + len(more)])
    for carried, value in zip(more, final, strict=True):
        value.name, value.type, value.shape = f"{loop.name}.{carried.name}", carried.after.type, carried.after.shape
    graph.insert_after(loop, new)
    graph.remove(loop, safe=True)
    return final
