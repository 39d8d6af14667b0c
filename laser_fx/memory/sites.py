"""The inputs of weight-shared linears among the values of a joint graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import fx

from laser_fx.memory.operators import is_view, whole
from laser_fx.memory.values import Values, ancestors

__all__ = ["linear_inputs", "only_products_read"]

aten = torch.ops.aten
_PRODUCTS = {aten.mm.default: (0, 1), aten.addmm.default: (1, 2)}
"""Operator → places of the activation and of the weight."""


def linear_inputs(values: Values, names: Sequence[str]) -> dict[str, str]:
    """Value → the name of the linear that reads it; of the first one where there are more.

    Args:
        values: of the segment.
        names: of the linears in the segment whose weight is the same at every step, in the order of the graph.
    """
    found = list(_linears(values))
    labels = names if len(names) == len(found) else [node.name for node in found]
    sites: dict[str, str] = {}
    for node, label in zip(found, labels, strict=True):
        sites.setdefault(node.name, label)
    return sites


def _linears(values: Values) -> Iterator[fx.Node]:
    """The activation of every linear of the forward."""
    for node in values.joint.graph.nodes:
        if node.target not in _PRODUCTS or node not in values.forward:
            continue
        left, right = (node.args[place] for place in _PRODUCTS[node.target])
        if _is_fixed(values, right) and not _is_fixed(values, left):
            yield whole(left)


def _is_fixed(values: Values, node: fx.Node) -> bool:
    """Whether a value is the same at every step."""
    return all(values.is_invariant(source) for source in ancestors([node]) if source.op == "placeholder")


def only_products_read(values: Values, node: fx.Node) -> bool:
    """Whether backward reads a value for products alone: those of weights' gradients. An error in it stays there."""
    readers = [user for user in _readers(node) if user not in values.forward and user.op != "output"]
    return bool(readers) and all(user.target in _PRODUCTS for user in readers)


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    for user in node.users:
        if is_view(user):
            yield from _readers(user)
        else:
            yield user
