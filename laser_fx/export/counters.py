"""Outputs that count the steps of a loop from a constant on: no loop carries them, and another depth would not be told.

What is made of constants alone is no part of a loop, so that ``n = n + 1`` from zeros stays a straight line beside it,
one node for each step that was traced. A file whose loop ran any other number of times would answer wrongly there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import fx

from laser_fx.errors import ExportError
from laser_fx.export.source import Exportable
from laser_fx.export.straight import loop_of

__all__ = ["counts_steps", "refuse_counted"]

_HALF_A_STEP = 0.5


def counts_steps(program: Exportable) -> str | None:
    """The last node of a line of constants that has one node, or more, in every step of the only outermost loop."""
    graph = program.graph_module.graph
    calls = [(node, loop) for node in graph.nodes if (loop := loop_of(node)) is not None]
    if len(calls) != 1:
        return None
    call, loop = calls[0]
    targets = set(_targets(loop.body))
    names = {node.name for node in graph.nodes}
    order = [node for node in program.captured.graph.nodes if node.op == "call_function"]
    places = {node.name: place for place, node in enumerate(order)}
    rolled = [places[node.name] for node in order if node.name not in names and node.target in targets]
    if not rolled:
        return None
    between = range(rolled[0] + 1, rolled[-1])
    spread = (loop.trip_count - 1 - _HALF_A_STEP) / loop.trip_count * (rolled[-1] - rolled[0])
    for line in _lines(graph, _read_by(call), program.weights):
        at = [places[node.name] for node in line if node.name in places]
        inside = sum(place in between for place in at)
        if len(at) >= loop.trip_count and inside >= loop.trip_count - 1 and max(at) - min(at) >= spread:
            return line[-1].name
    return None


def refuse_counted(program: Exportable) -> None:
    """Refuse to leave a loop early whose steps are counted beside it.

    Raises:
        ExportError: naming the value.
    """
    counted = counts_steps(program)
    if counted is not None:
        raise ExportError(
            "a value that starts as a constant counts the steps that were traced, and fewer may run",
            where=counted,
            fix="let it start from an input, return it from no step, or leave halt out",
        )


def _targets(body: fx.GraphModule) -> Iterator[object]:
    for node in body.graph.nodes:
        inner = loop_of(node)
        if inner is not None:
            yield from _targets(inner.body)
        elif node.op == "call_function":
            yield node.target


def _read_by(call: fx.Node) -> set[fx.Node]:
    """All nodes that a loop is fed from."""
    found, pending = set[fx.Node](), list(call.all_input_nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _lines(graph: fx.Graph, fed: set[fx.Node], weights: Collection[str]) -> Iterator[list[fx.Node]]:
    """The longest line of constants to each of them that no other one reads; what feeds the loop is left out."""
    before: dict[fx.Node, fx.Node | None] = {}
    lengths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        read = node.all_input_nodes
        if node.target is torch.ops.aten.sym_size.int or (node.op == "placeholder" and node.name in weights):
            lengths[node] = 0
        elif node.op == "call_function" and node not in fed and all(other in lengths for other in read):
            before[node] = max(read, key=lengths.__getitem__, default=None)
            lengths[node] = 1 + (0 if before[node] is None else lengths[before[node]])  # type: ignore[index]
    for last in before:
        if not any(user in before for user in last.users):
            line: list[fx.Node] = []
            node = last
            while node in before:
                line.append(node)
                node = before[node]
            yield line[::-1]
