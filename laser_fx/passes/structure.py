"""What a rolled loop computes, as a key: equal keys mean the same function of the loop's arguments."""

from __future__ import annotations

from collections.abc import Hashable

from torch import fx

from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.infra import rolled_loop
from laser_fx.passes.keys import describe, skeleton
from laser_fx.rolled import RolledLoop

__all__ = ["structure"]


def structure(loop: RolledLoop) -> Hashable:
    """The loop's counts, and every node of its body in order, by number; names do not matter."""
    counts = (loop.trip_count, loop.carry_count, loop.per_step_count, loop.stacked_count, loop.stacked_outputs)
    return (*counts, _body(loop.body))


def _body(body: fx.GraphModule) -> Hashable:
    numbers: dict[fx.Node, int] = {}
    lines: list[Hashable] = []
    for node in body.graph.nodes:
        lines.append(_line(body, node, numbers))
        numbers[node] = len(numbers)
    return tuple(lines)


def _line(body: fx.GraphModule, node: fx.Node, numbers: dict[fx.Node, int]) -> Hashable:
    inner = rolled_loop(body, node)
    target = node.op if node.op in ("placeholder", "output") else str(node.target)
    return (
        target if inner is None else structure(inner),
        skeleton(node.args if node.op != "placeholder" else (), lambda source: ("node", numbers[source])),
        skeleton(node.kwargs, lambda source: ("node", numbers[source])),
        describe(node.meta.get("val")),
        bool(node.meta.get(GRAD_ENABLED)),
    )
