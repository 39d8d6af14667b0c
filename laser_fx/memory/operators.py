"""What a planner has to know about operators: size, storage, randomness, work."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from laser_fx.nodes import draws_nothing

__all__ = ["flops", "is_product", "is_random", "is_view", "is_view_operator", "size", "whole"]

_SHARES_STORAGE = {torch.ops.aten._unsafe_view.default}


def size(node: fx.Node) -> int:
    """Bytes of a value, of all parts of a tuple."""
    value = node.meta.get("val")
    parts = value if isinstance(value, (tuple, list)) else (value,)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


def is_view(node: fx.Node) -> bool:
    """Whether a value is in the storage of the first one that it is made of."""
    if node.target is operator.getitem:
        return is_view(node.all_input_nodes[0])
    return is_view_operator(node.target)


def is_view_operator(target: Any) -> bool:
    """Whether an operator returns a part of the storage of what it takes."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target in _SHARES_STORAGE or any(r.alias_info is not None for r in target._schema.returns)


def whole(node: fx.Node) -> fx.Node:
    """The value in whose storage this one is: itself, if it is no view."""
    while is_view(node):
        node = node.all_input_nodes[0]
    return node


def is_random(node: fx.Node) -> bool:
    """Whether the operator draws random numbers; dropout in evaluation, and attention that drops nothing, draw none."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    return not draws_nothing(node)


def is_product(node: fx.Node) -> bool:
    """Whether the operator is a matrix product, a convolution or attention, or is not one of torch's."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    return target.overloadpacket in flop_registry or target.namespace != "aten" or "attention" in str(target)


def flops(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Floating-point operations of a product; attention that nobody counts is taken for two products."""
    formula = flop_registry.get(getattr(target, "overloadpacket", None))
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=result))
    return _attention_flops(*args[:2]) if "attention" in str(target) else 0


def _attention_flops(query: Any, key: Any) -> int:
    return 4 * int(query.numel()) * int(key.shape[-2])
