"""Classes of operators, by which it is said where a training step's memory goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import fx

from laser_fx.memory.operators import is_view

__all__ = ["CLASSES", "foremost", "operator_class", "readers_class"]

CLASSES = ("linear", "attention", "norm", "elementwise", "other")

_PRECEDENCE = ("attention", "norm", "elementwise", "other", "linear")
_PRODUCTS = {"linear", "matmul", "mm", "bmm", "addmm", "addbmm", "addmv", "mv", "baddbmm", "bilinear", "einsum", "dot"}
_POINTWISE = {"dropout", "native_dropout", "glu", "type", "to", "_to_copy", "float", "half", "bfloat16", "truediv"}
_BACKWARD = ("_backward_data", "_backward")


def operator_class(target: Any) -> str:
    """The class of an operator, or of a function of torch, by its name.

    Convolutions count as linear, softmax as attention. A norm that is written out in elementwise operators counts as
    those: its name is not in the graph.

    Args:
        target: an operator, a function, or the name of one.

    >>> operator_class(torch.ops.aten.addmm.default), operator_class(torch.nn.functional.silu)
    ('linear', 'elementwise')
    >>> operator_class("native_layer_norm_backward"), operator_class("embedding")
    ('norm', 'other')
    """
    return _class_of(_name(target))


def foremost(classes: Iterable[str]) -> str:
    """The class that counts for what several save: linear only where nothing else does.

    A linear's input that an elementwise operator saves too is not freed where the linear keeps less of it.

    >>> foremost(["linear", "elementwise"])
    'elementwise'
    """
    return min(classes, key=_PRECEDENCE.index, default="other")


def readers_class(node: fx.Node) -> str:
    """The class of a value of a joint graph: that of the operators, forward or backward, that read it."""
    return foremost(operator_class(reader.target) for reader in _readers(node))


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if is_view(user):
            yield from _readers(user)
        elif user.op == "call_function":
            yield user


def _name(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name.split("::")[-1])
    return target if isinstance(target, str) else str(getattr(target, "__name__", target))


@cache
def _class_of(name: str) -> str:
    plain = name.strip("_")
    for ending in _BACKWARD:
        plain = plain.removesuffix(ending)
    if plain in _PRODUCTS or plain.startswith(("conv", "scaled_mm")) or plain.endswith("linear"):
        return "linear"
    if "attention" in plain or "softmax" in plain:
        return "attention"
    if "norm" in plain:
        return "norm"
    candidates = {plain, f"{plain}_backward", plain[1:] if name.startswith("__") else plain}
    return "elementwise" if any(_is_pointwise(candidate) for candidate in candidates) else "other"


def _is_pointwise(name: str) -> bool:
    if name in _POINTWISE:
        return True
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())
