"""The values of a joint graph: which of them backward needs, what they weigh, and what making them again costs."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from laser_fx.memory.joint import Joint

__all__ = ["Keep", "Values", "ancestors", "is_product", "is_random", "is_view", "size"]

Keep = Literal["free", "carry", "once", "each"]
"""What keeping an input costs: nothing, what the carry costs at every step, its bytes once a loop, or at every step."""

FLOPS_PER_BYTE = 8
"""Operations that take the time of moving one byte; between that of a CPU core (4) and that of a GPU in fp32 (16)."""

_SHARES_STORAGE = {torch.ops.aten._unsafe_view.default}


class Values:
    """What a cut has to know about a joint graph.

    Args:
        joint: the graph.
        keeps: what keeping each input costs.
        trips: steps of the loop that the segment is the body of.
        carried: for each input that is a carry the output that the next step gets there. The two are one tensor, and
            a step needs its carry in nearly every choice: keeping either is free in comparisons, and counted in totals.
    """

    def __init__(self, joint: Joint, keeps: Sequence[Keep], trips: int, carried: Sequence[fx.Node] = ()) -> None:
        self.joint, self._trips = joint, trips
        self._keeps = {node: keep for node, keep in zip(joint.inputs, keeps, strict=True) if node is not None}
        held = [node for node, keep in self._keeps.items() if keep == "carry"]
        self._carries = list(zip(held, (self.base(node) for node in carried), strict=True))
        self._carried = {node for pair in self._carries for node in pair}
        self.forward = self._forward()

    def _forward(self) -> frozenset[fx.Node]:
        """Inputs, all that the outputs are made of, and what their operators return besides."""
        found = {node for node in self.joint.inputs if node is not None} | ancestors(self.joint.outputs)
        besides = {user for node in found for user in node.users if user.target is operator.getitem}
        random = {node for node in self.joint.graph.nodes if is_random(node)}
        return frozenset(found | besides | random | ancestors(random))

    @cached_property
    def needed(self) -> tuple[fx.Node, ...]:
        """Values of the forward that backward reads, or returns, in the order of the graph."""
        backward = [n for n in self.joint.graph.nodes if n.op != "output" and n not in self.forward]
        read = {source for node in backward for source in node.all_input_nodes} | set(self.joint.gradients)
        return tuple(node for node in self.joint.graph.nodes if node in self.forward and node in read)

    @cached_property
    def kept_by_eager(self) -> tuple[fx.Node, ...]:
        """What autograd keeps alive: the storages of the needed values."""
        return tuple(dict.fromkeys(self.base(node) for node in self.needed))

    def base(self, node: fx.Node) -> fx.Node:
        """The value in whose storage this one is."""
        while is_view(node):
            node = node.all_input_nodes[0]
        return node

    def weight(self, node: fx.Node) -> int:
        """Bytes that keeping a value costs at one step, besides the carry."""
        keep = self._keeps.get(node)
        if keep == "free" or node in self._carried:
            return 0
        return size(node) // (self._trips if keep == "once" else 1)

    def share(self, node: fx.Node) -> int:
        """Bytes that keeping a value costs at one step."""
        return size(node) if node in self._carried else self.weight(node)

    def total(self, kept: Iterable[fx.Node]) -> int:
        """Bytes that keeping these costs at one step; a carry that goes in and the one that comes out are one."""
        nodes = set(kept)
        carries = sum(size(held) for held, following in self._carries if held in nodes or following in nodes)
        return carries + sum(self.weight(node) for node in nodes)

    def time(self, node: fx.Node) -> int:
        """What making a value again costs, in bytes moved; 0 for views."""
        if node.target is operator.getitem or is_view(node):
            return 0
        moved = size(node) + sum(size(source) for source in node.all_input_nodes)
        return moved + flops(node) // FLOPS_PER_BYTE


def ancestors(nodes: Iterable[fx.Node], known: AbstractSet[fx.Node] = frozenset()) -> set[fx.Node]:
    """These nodes and all that they are made of, up to what is known."""
    waiting = [node for node in nodes if node not in known]
    seen = set(waiting)
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in seen and source not in known]
        seen.update(new)
        waiting.extend(new)
    return seen


def size(node: fx.Node) -> int:
    """Bytes of a value, of all parts of a tuple."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


def is_view(node: fx.Node) -> bool:
    """Whether a value is in the storage of the first one that it is made of."""
    if node.target is operator.getitem:
        return is_view(node.all_input_nodes[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target in _SHARES_STORAGE or any(r.alias_info is not None for r in node.target._schema.returns)


def is_random(node: fx.Node) -> bool:
    """Whether the operator draws random numbers; attention that drops nothing draws none."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    places = [place for place, argument in enumerate(target._schema.arguments) if argument.name == "dropout_p"]
    return not any(_argument(node, place) == 0 for place in places)


def _argument(node: fx.Node, place: int) -> Any:
    """What an operator is called with at a place of its schema."""
    assert isinstance(node.target, torch._ops.OpOverload)
    argument = node.target._schema.arguments[place]
    return node.args[place] if place < len(node.args) else node.kwargs.get(argument.name, argument.default_value)


def is_product(node: fx.Node) -> bool:
    """Whether the operator is a matrix product, a convolution or attention, or is not one of torch's."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target.overloadpacket in flop_registry or target.namespace != "aten" or "attention" in str(target)


def flops(node: fx.Node) -> int:
    """Floating-point operations of a product; attention that nobody counts is taken for two products."""
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta.get("val"))
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=node.meta["val"]))
    return _attention_flops(*args[:2]) if "attention" in str(node.target) else 0


def _attention_flops(query: Any, key: Any) -> int:
    return 4 * int(query.numel()) * int(key.shape[-2])
