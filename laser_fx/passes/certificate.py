"""Checks that a rolled graph computes what the captured graph computes.

The checker knows nothing of detection. It runs both graphs symbolically, loops step by step, and gives every value a
number: equal numbers mean the same operator on values of equal numbers. Two graphs whose outputs have equal numbers are
the same expression, and hence bitwise equal. Random operators are numbered by their turn in the program, so that the
same draw must serve the same place.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from laser_fx.capture import GRAD_ENABLED
from laser_fx.errors import PassError
from laser_fx.passes.infra import SET_GRAD, getitem, rolled_loop
from laser_fx.passes.keys import Interner, describe, identity_reason, is_random, is_symbolic, skeleton

__all__ = ["Certificate", "certify"]


@dataclass(frozen=True)
class Certificate:
    """The proof, in figures.

    Args:
        operations: operators of the captured graph that were matched.
        looked_through: (node, reason) for every captured node that was taken for its own input.
    """

    operations: int
    looked_through: tuple[tuple[str, str], ...]


def certify(
    captured: fx.GraphModule, rolled: fx.GraphModule, identities: Mapping[str, Hashable], grad_enabled: bool
) -> Certificate:
    """Prove ``rolled`` equal to ``captured``.

    Args:
        captured: the flat graph.
        rolled: the rolled graph, exact: without tracking.
        identities: placeholder → what tells its tensor from others; equal for weights that share storage.
        grad_enabled: the grad mode at both graphs' door.

    Raises:
        PassError: an output is not the same expression; the rewrite must not be used.
    """
    intern = Interner()
    left = _Numbering(intern, identities, grad_enabled, switches=False)
    right = _Numbering(intern, identities, grad_enabled, switches=True)
    wanted = left.run(captured, left.placeholders(captured))
    made = right.run(rolled, right.placeholders(rolled))
    if len(wanted) != len(made):
        raise PassError(f"the rolled graph returns {len(made)} values, the captured one {len(wanted)}", where="reroll")
    for position, (a, b) in enumerate(zip(wanted, made, strict=True)):
        if a != b:
            raise PassError(f"output {position} of the rolled graph is not the captured expression", where="reroll")
    if left.draws != right.draws:
        raise PassError("the rolled graph draws random numbers in another order", where="reroll")
    return Certificate(left.operations, tuple(left.looked_through))


class _Numbering:
    """Value numbers of one graph. ``switches``: it switches its grad mode; a captured one has it on each node."""

    def __init__(
        self, intern: Interner, identities: Mapping[str, Hashable], grad_enabled: bool, *, switches: bool
    ) -> None:
        self.intern, self.identities, self.grad_enabled, self.switches = intern, identities, grad_enabled, switches
        self.mode = grad_enabled
        self.draws: list[int] = []
        self.operations = 0
        self.looked_through: list[tuple[str, str]] = []

    def placeholders(self, graph_module: fx.GraphModule) -> list[int]:
        names = [n.name for n in graph_module.graph.nodes if n.op == "placeholder"]
        return [self.intern(("input", self.identities.get(name, name))) for name in names]

    def run(self, graph_module: fx.GraphModule, arguments: Sequence[Any]) -> list[Any]:
        values: dict[fx.Node, Any] = {}
        remaining = iter(arguments)
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(remaining)
            elif node.op == "output":
                return [values[a] if isinstance(a, fx.Node) else a for a in node.args[0]]
            else:
                values[node] = self._number(graph_module, node, values)
        raise PassError("a graph returns nothing", where=type(graph_module).__name__)

    def _number(self, graph_module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        loop = rolled_loop(graph_module, node)
        if loop is not None:
            return self._unroll(loop, [values[a] if isinstance(a, fx.Node) else a for a in node.args])
        if node.target is SET_GRAD:
            self.mode = bool(node.args[0])
            return None
        if node.target is getitem and isinstance(values[node.args[0]], (list, tuple)):  # type: ignore[index]
            return values[node.args[0]][node.args[1]]  # type: ignore[index]
        if is_symbolic(node):
            return self.intern(("size", str(node.meta["val"])))
        if (reason := identity_reason(node, self.grad_enabled)) is not None:
            self.looked_through.append((node.name, reason))
            return values[node.args[0]]  # type: ignore[index]
        return self._operation(node, values)

    def _operation(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> int:
        def leaf(argument: fx.Node) -> Hashable:
            return ("value", values[argument])

        mode = self.mode if self.switches else bool(node.meta[GRAD_ENABLED])
        key: Hashable = (str(node.target), skeleton(node.args, leaf), skeleton(node.kwargs, leaf), mode)
        if is_random(node):
            key = ("draw", len(self.draws), key)
        self.operations += 1
        number = self.intern((key, describe(node.meta.get("val"))))
        if is_random(node):
            self.draws.append(number)
        return number

    def _unroll(self, loop: Any, arguments: Sequence[Any]) -> list[Any]:
        """What `RolledLoop.forward` does, on numbers."""
        start = loop.carry_count + loop.per_step_count * loop.trip_count
        carry, streams, invariants = (
            arguments[: loop.carry_count],
            arguments[loop.carry_count : start],
            arguments[start:],
        )
        collected = []
        for step in range(loop.trip_count):
            results = self.run(loop.body, [*carry, *streams[step :: loop.trip_count], *invariants])
            carry = results[: loop.carry_count]
            collected.append(results[loop.carry_count :])
        return [*carry, *(list(values) for values in zip(*collected, strict=True))]
