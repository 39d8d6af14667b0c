"""Checks that a rolled graph computes what the captured graph computes.

The checker knows nothing of detection. It numbers the nodes of the captured graph, runs the rolled graph symbolically,
loops step by step, and finds for every operation that it meets the captured node with the same operator, the same
arguments, shape, dtype and grad mode, *by the numbers of the values that it reads*. Outputs must have the same numbers,
hence they are the same expressions and bitwise equal. Random operators are counted: the same draw must serve the same
place.

Without gradients, nodes that compute the same of the same values are one. With gradients they are told apart: every
captured node must be met exactly once, and the readers of every value in the order of the captured program, since that
is the order in which autograd sums its gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from laser_fx.errors import PassError
from laser_fx.loops import Certificate
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.infra import SET_GRAD, getitem, rolled_loop
from laser_fx.passes.keys import Interner, describe, identity_reason, is_random, is_symbolic, skeleton, stops_gradients
from laser_fx.passes.structure import structure
from laser_fx.rolled import RolledLoop

__all__ = ["certify"]

Key = tuple[Hashable, ...]


def certify(
    captured: fx.GraphModule,
    rolled: fx.GraphModule,
    identities: Mapping[str, Hashable],
    parameters: frozenset[str],
    grad_enabled: bool,
) -> Certificate:
    """Prove ``rolled`` equal to ``captured``.

    Args:
        captured: the flat graph.
        rolled: the rolled graph, exact: without tracking. Where it is ``captured`` itself there is nothing to prove.
        identities: placeholder → what tells its tensor from others; equal for weights that share storage.
        parameters: placeholders among them that gradients may reach.
        grad_enabled: the grad mode at both graphs' door.

    Raises:
        PassError: the rolled graph does something else, or in another order; the rewrite must not be used.
    """
    if rolled is captured:
        return Certificate(sum(1 for node in captured.graph.nodes if node.op == "call_function"))
    record = _Record(identities, parameters, grad_enabled)
    wanted = _Run(record, grad_enabled, switches=False).all(captured)
    match = _Match(record)
    made = _Run(match, grad_enabled, switches=True).all(rolled)
    match.finish()
    if len(wanted) != len(made):
        raise PassError(f"the rolled graph returns {len(made)} values, the captured one {len(wanted)}", where="reroll")
    for position, (a, b) in enumerate(zip(wanted, made, strict=True)):
        if a != b:
            raise PassError(f"output {position} of the rolled graph is not the captured one", where="reroll")
    return Certificate(len(record.nodes), tuple(record.looked_through), tuple(record.merged))


@dataclass
class _Record:
    """The captured graph: a number for every node, inputs from −1 down.

    Args:
        numbers: key of an operation → its nodes' numbers, in order.
        readers: number of a value → the numbers of its readers, in order.
        constant: numbers of values that no gradient reaches: integers, and what is made of buffers and constants.
    """

    identities: Mapping[str, Hashable]
    parameters: frozenset[str]
    grad_enabled: bool
    templates: Interner = field(default_factory=Interner)
    inputs: Interner = field(default_factory=Interner)
    nodes: list[str] = field(default_factory=list)
    numbers: dict[Key, list[int]] = field(default_factory=lambda: defaultdict(list))
    readers: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    constant: set[int] = field(default_factory=set)
    looked_through: list[tuple[str, str]] = field(default_factory=list)
    merged: list[tuple[str, str]] = field(default_factory=list)
    draws: int = 0

    def input(self, node: fx.Node) -> int:
        number = -1 - self.inputs(self.identities.get(node.name, node.name))
        if stops_gradients(node) or (node.name in self.identities and node.name not in self.parameters):
            self.constant.add(number)
        return number

    def skip(self, node: fx.Node, reason: str) -> None:
        self.looked_through.append((node.name, reason))

    def has(self, key: Key) -> bool:
        """Every loop of the captured graph is one operation of it."""
        return True

    def operation(self, key: Key, operands: Sequence[int], node: fx.Node, where: str) -> int:
        known, number = self.numbers[key], len(self.nodes)
        self.nodes.append(node.name)
        if stops_gradients(node) or all(operand in self.constant for operand in operands):
            self.constant.add(number)
        if known and self.merges(number):
            self.merged.append((node.name, self.nodes[known[0]]))
            return known[0]
        known.append(number)
        if self.grad_enabled and not stops_gradients(node):
            for operand in self.summed(operands):
                self.readers[operand].append(number)
        return number

    def summed(self, operands: Sequence[int]) -> list[int]:
        """Those whose gradient may be a sum."""
        return [operand for operand in operands if operand not in self.constant]

    def merges(self, number: int) -> bool:
        """Whether nodes that compute the same as this one are one: where no gradient tells them apart."""
        return not self.grad_enabled or number in self.constant


class _Match:
    """Finds the captured node of every operation of the rolled graph."""

    def __init__(self, record: _Record) -> None:
        self.record = record
        self.templates = record.templates
        self.met: dict[Key, int] = defaultdict(int)
        self.read: dict[int, int] = defaultdict(int)
        self.draws = 0

    def input(self, node: fx.Node) -> int:
        return self.record.input(node)

    def skip(self, node: fx.Node, reason: str) -> None:
        """What is looked through in the rolled graph was copied from the captured one."""

    def has(self, key: Key) -> bool:
        """Whether the captured graph has the operation."""
        return key in self.record.numbers

    def operation(self, key: Key, operands: Sequence[int], node: fx.Node, where: str) -> int:
        known = self.record.numbers.get(key, ())
        turn = 0 if known and self.record.merges(known[0]) else self.met[key]
        if turn >= len(known):
            raise PassError("the captured graph has no such operation, or has it less often", where=where + node.name)
        self.met[key] += 1
        if self.record.grad_enabled and not stops_gradients(node):
            self._follow(known[turn], operands, where + node.name)
        return known[turn]

    def _follow(self, number: int, operands: Sequence[int], where: str) -> None:
        for operand in self.record.summed(operands):
            readers, turn = self.record.readers[operand], self.read[operand]
            if turn >= len(readers) or readers[turn] != number:
                raise PassError("its argument's gradient would be summed in another order", where=where)
            self.read[operand] += 1

    def finish(self) -> None:
        if self.draws != self.record.draws:
            raise PassError(
                f"the rolled graph draws random numbers {self.draws} times, the captured one {self.record.draws} times",
                where="reroll",
            )
        for key, numbers in self.record.numbers.items():
            if self.met[key] < len(numbers):
                name = self.record.nodes[numbers[self.met[key]]]
                raise PassError("the rolled graph leaves it out", where=name)


class _Run:
    """One graph, run on numbers. ``switches``: it switches its grad mode; a captured one has it on each node."""

    def __init__(self, table: _Record | _Match, grad_enabled: bool, *, switches: bool) -> None:
        self.table, self.grad_enabled, self.switches = table, grad_enabled, switches
        self.mode = grad_enabled
        self.templates: dict[fx.Node, tuple[int, list[fx.Node]]] = {}
        self.structures: dict[RolledLoop, Hashable] = {}

    def all(self, graph_module: fx.GraphModule) -> list[Any]:
        inputs = [self.table.input(node) for node in graph_module.graph.find_nodes(op="placeholder")]
        return self._graph(graph_module, inputs, "")

    def _graph(self, graph_module: fx.GraphModule, arguments: Sequence[Any], where: str) -> list[Any]:
        values: dict[fx.Node, Any] = {}
        remaining = iter(arguments)
        for node in graph_module.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(remaining)
            elif node.op == "output":
                return [values[a] if isinstance(a, fx.Node) else a for a in node.args[0]]
            else:
                values[node] = self._value(graph_module, node, values, where)
        raise PassError("a graph returns nothing", where=where or type(graph_module).__name__)

    def _value(self, graph_module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any], where: str) -> Any:
        if node.op == "call_module":
            return self._loop(graph_module, node, values, where)
        if node.target is SET_GRAD:
            self.mode = bool(node.args[0])
            return None
        if node.target is getitem and isinstance(values[node.args[0]], (list, tuple)):  # type: ignore[index]
            return values[node.args[0]][node.args[1]]  # type: ignore[index]
        if is_symbolic(node):
            return ("size", str(node.meta["val"]))
        if (reason := identity_reason(node, self.grad_enabled)) is not None:
            self.table.skip(node, reason)
            return values[node.args[0]]  # type: ignore[index]
        return self._operation(node, *self._key(node, str(node.target), values), where)

    def _operation(self, node: fx.Node, key: Key, read: Sequence[Any], where: str) -> int:
        if is_random(node):
            self.table.draws += 1
        return self.table.operation(key, [r for r in read if isinstance(r, int)], node, where)

    def _key(self, node: fx.Node, target: Hashable, values: Mapping[fx.Node, Any]) -> tuple[Key, list[Any]]:
        template, sources = self._template(node, target)
        read = [values[source] for source in sources]
        mode = self.mode if self.switches else bool(node.meta[GRAD_ENABLED])
        draw = (("draw", self.table.draws),) if is_random(node) else ()
        return (template, mode, *(tuple(r) if isinstance(r, list) else r for r in read), *draw), read

    def _template(self, node: fx.Node, target: Hashable) -> tuple[int, list[fx.Node]]:
        """A number for everything about the node but the values that it reads, and the nodes that it reads."""
        if node not in self.templates:
            sources: list[fx.Node] = []

            def hole(source: fx.Node) -> Hashable:
                sources.append(source)
                return "value"

            form = (skeleton(node.args, hole), skeleton(node.kwargs, hole), describe(node.meta.get("val")))
            self.templates[node] = (self.table.templates((target, *form)), sources)
        return self.templates[node]

    def _loop(self, graph_module: fx.GraphModule, node: fx.Node, values: Mapping[fx.Node, Any], where: str) -> Any:
        """A loop that was captured as one is one operation; a re-rolled one is run step by step."""
        loop = rolled_loop(graph_module, node)
        key, read = self._key(node, str(node.target) if loop is None else self._structure(loop), values)
        if loop is None or self.table.has(key):
            return self._operation(node, key, read, where)
        arguments = [values[a] if isinstance(a, fx.Node) else a for a in node.args]
        return self._unroll(loop, arguments, where)

    def _structure(self, loop: RolledLoop) -> Hashable:
        if loop not in self.structures:
            self.structures[loop] = structure(loop)
        return self.structures[loop]

    def _unroll(self, loop: RolledLoop, arguments: Sequence[Any], where: str) -> list[Any]:
        """What `RolledLoop.forward` does, on numbers."""
        start = loop.carry_count + loop.per_step_count * loop.trip_count
        carry, invariants = arguments[: loop.carry_count], arguments[start:]
        streams = arguments[loop.carry_count : start]
        collected = []
        for step in range(loop.trip_count):
            place = f"{where}{loop.name}, step {step}: "
            results = self._graph(loop.body, [*carry, *streams[step :: loop.trip_count], *invariants], place)
            carry = results[: loop.carry_count]
            collected.append(results[loop.carry_count :])
        return [*carry, *(list(values) for values in zip(*collected, strict=True))]
