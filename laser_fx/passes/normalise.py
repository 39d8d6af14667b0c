"""A view of a captured graph in which equal iterations look equal.

The graph itself stays as it is. The view looks through nodes that return their input, replaces
what is computed from constants alone by a number for its value, and gives every remaining node a token: equal tokens
mean the same operator, the same static arguments, the same weights, shape, dtype and grad mode.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx

from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.infra import rolled_loop
from laser_fx.passes.keys import Interner, describe, identity_reason, is_random, is_symbolic, skeleton
from laser_fx.passes.structure import structure

__all__ = ["Block", "Item", "Kind", "Ref", "Slot", "View", "normalise"]

aten = torch.ops.aten

Slot = Hashable
Ref = tuple[int, Slot]
"""A value: (index of the item that makes it, which of its results), or (−1 − k, 0) for input k of the block. At the top
level the numbers after the inputs stand for what is computed from weights and constants."""

_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.mm.default, aten.addmm.default, aten.bmm.default}


class Kind(NamedTuple):
    """What the token of an operation stands for: two nodes of one kind can be the same operation in two steps.

    Args:
        target: the operator's name; for a loop that the model's author wrote as one, its `structure`.
        args: the arguments, as `skeleton` has them: values as holes, weights by what tells them apart.
        kwargs: likewise.
        value: what `describe` says of the result.
        grad_enabled: the grad mode that it was captured under.
    """

    target: Hashable
    args: Hashable
    kwargs: Hashable
    value: Hashable
    grad_enabled: bool


@dataclass(frozen=True, slots=True)
class Item:
    """One operation of a view.

    Args:
        token: equal for operations that can be the same one in two iterations.
        args: the values it reads, in the order in which they stand in the node's arguments.
        node: the captured node, None for a loop.
        reads_weight: whether a parameter is part of its token; what is made of parameters is among its ``args``.
        loop: the loop that this item stands for, set by detection.
    """

    token: int
    args: tuple[Ref, ...]
    node: fx.Node | None
    reads_weight: bool
    loop: Any = None


@dataclass(frozen=True)
class Block:
    """A straight line of items.

    Args:
        items: in program order.
        inputs: how many values come from outside.
        outputs: what it returns: a `Ref`, a node for a value that is computed from constants alone, or a plain number.
        origin: the captured node behind each value, for its shape, dtype and name.
    """

    items: Sequence[Item]
    inputs: int
    outputs: Sequence[Any]
    origin: Mapping[Ref, fx.Node]


@dataclass(frozen=True)
class View:
    """A normalised view.

    Args:
        block: the whole graph as one block; its inputs are the user inputs, in order.
        static: every node whose value depends on weights and constants alone → the first node with that value.
        weights: nodes that are parameters, or made of parameters alone.
        looked_through: node → why it returns its input.
        intern: gives tokens; detection goes on with it.
        grad_enabled: whether the graph was captured with gradients on.
    """

    block: Block
    static: Mapping[fx.Node, fx.Node]
    weights: frozenset[fx.Node]
    looked_through: Mapping[fx.Node, str]
    intern: Interner = field(repr=False)
    grad_enabled: bool


def normalise(
    graph: fx.Graph, identities: Mapping[str, Hashable], parameters: frozenset[str], grad_enabled: bool
) -> View:
    """View a captured graph.

    Args:
        graph: a flat graph of `laser_fx.capture`.
        identities: placeholder → what tells its tensor from others; equal for weights that share storage.
        parameters: placeholders among them that are parameters.
        grad_enabled: whether the graph was captured with gradients on.
    """
    intern = Interner()
    folded = _Normaliser(identities, parameters, grad_enabled, intern)
    view = folded.run(graph)
    # A first step that starts from a constant has parts that are constants: they stay items if later steps have them.
    repeated = folded.folded_kinds & {item.token for item in view.block.items}
    return _Normaliser(identities, parameters, grad_enabled, intern, repeated).run(graph) if repeated else view


class _Normaliser:
    """``kept``: tokens of operations that are not folded even where they compute a constant."""

    def __init__(
        self,
        identities: Mapping[str, Hashable],
        parameters: frozenset[str],
        grad_enabled: bool,
        intern: Interner,
        kept: Set[int] = frozenset(),
    ) -> None:
        self.identities, self.parameters, self.grad_enabled, self.kept = identities, parameters, grad_enabled, kept
        self.intern = intern
        self.folded_kinds: set[int] = set()
        self.items: list[Item] = []
        self.inputs = 0
        self.values: dict[fx.Node, Ref] = {}
        self.static: dict[fx.Node, int] = {}
        self.constants: dict[int, Ref] = {}
        self.from_parameter: set[fx.Node] = set()
        self.looked_through: dict[fx.Node, str] = {}
        self.origin: dict[Ref, fx.Node] = {}
        self.outputs: list[Any] = []

    def run(self, graph: fx.Graph) -> View:
        for node in graph.nodes:
            self._visit(node)
        block = Block(self.items, self.inputs, self.outputs, self.origin)
        firsts: dict[int, fx.Node] = {}
        static = {node: firsts.setdefault(token, node) for node, token in self.static.items()}
        return View(block, static, frozenset(self.from_parameter), self.looked_through, self.intern, self.grad_enabled)

    def _visit(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "output":
            results: Any = node.args[0]
            self.outputs = [self.values.get(n, n) if isinstance(n, fx.Node) else n for n in results]
        elif is_symbolic(node):
            self.looked_through[node] = "it is a size, read off a tensor again where it is needed"
        elif (reason := identity_reason(node, self.grad_enabled)) is not None:
            self.looked_through[node] = reason
            self._alias(node, node.args[0])  # type: ignore[arg-type]
        else:
            self._operation(node)

    def _placeholder(self, node: fx.Node) -> None:
        if node.name in self.identities:
            self.static[node] = self.intern(("state", self.identities[node.name]))
            if node.name in self.parameters:
                self.from_parameter.add(node)
            return
        self.values[node] = (-1 - self.inputs, 0)
        self.origin[self.values[node]] = node
        self.inputs += 1

    def _alias(self, node: fx.Node, source: fx.Node) -> None:
        if source in self.static:
            self.static[node] = self.static[source]
            if source in self.from_parameter:
                self.from_parameter.add(node)
        else:
            self.values[node] = self.values[source]

    def _operation(self, node: fx.Node) -> None:
        refs: list[Ref] = []
        kind = Kind(
            self._target(node),
            self._skeleton(node.args, refs),
            self._skeleton(node.kwargs, refs),
            describe(node.meta.get("val")),
            bool(node.meta.get(GRAD_ENABLED)),
        )
        token = self.intern(kind)
        weights = [n for n in node.all_input_nodes if n in self.from_parameter]
        free = token not in self.kept and not is_random(node)
        # A product with a weight is work of the step in which it stands, even if that step starts from a constant.
        if free and weights and node.target not in _PRODUCTS and all(map(self._is_fixed, node.all_input_nodes)):
            self.from_parameter.add(node)
        # With gradients on, where a weight is cast or transposed decides how its gradient is summed: keep it in place.
        movable = not weights or (node in self.from_parameter and not self.grad_enabled)
        if free and movable and all(a in self.static or is_symbolic(a) for a in node.all_input_nodes):
            self._fold(node, token, tuple(refs))
            return
        self.values[node] = (len(self.items), 0)
        self.origin[self.values[node]] = node
        in_token = any(weight.op == "placeholder" for weight in weights)
        self.items.append(Item(token, tuple(refs), node, in_token))

    def _fold(self, node: fx.Node, token: int, refs: tuple[Ref, ...]) -> None:
        self.static[node] = self.intern((token, refs))
        if refs:
            self.folded_kinds.add(token)

    @staticmethod
    def _target(node: fx.Node) -> Hashable:
        """The operator; a loop that was captured as one is known by what it computes, not by its name."""
        owner = node.graph.owning_module
        loop = rolled_loop(owner, node) if owner is not None else None
        return str(node.target) if loop is None else structure(loop)

    def _is_fixed(self, source: fx.Node) -> bool:
        return source in self.static or source in self.from_parameter or is_symbolic(source)

    def _skeleton(self, argument: Any, refs: list[Ref]) -> Hashable:
        """A hashable copy of an argument; values become holes and are appended to ``refs``."""
        return skeleton(argument, lambda node: self._leaf(node, refs))

    def _leaf(self, node: fx.Node, refs: list[Ref]) -> Hashable:
        if node in self.static and node.op == "placeholder":
            return ("state", self.static[node])
        if node in self.static:
            # A computed constant may be an initial state, or a step's own value: it is compared like any value.
            refs.append(self._constant(node))
            return ("value",)
        if is_symbolic(node):
            return ("size", str(node.meta["val"]))
        refs.append(self.values[node])
        return ("value",)

    def _constant(self, node: fx.Node) -> Ref:
        token = self.static[node]
        if token not in self.constants:
            self.constants[token] = (-1 - self.inputs - len(self.constants), 0)
            self.origin[self.constants[token]] = node
        return self.constants[token]
