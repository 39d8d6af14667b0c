"""Whether autograd keeps a site's activation for another operator too.

Compressing such an activation frees nothing: the original stays, and Z and Q come on top of it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

__all__ = ["saved_elsewhere"]

aten = torch.ops.aten

_VIEWS = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.flatten.using_ints,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
}
_KEEPS_RESULT = {
    aten.scaled_dot_product_attention.default,
    aten.softmax.int,
    aten._softmax.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.exp.default,
    aten.relu.default,
    aten.sqrt.default,
    aten.rsqrt.default,
}
_KEEPS_NOTHING = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.neg.default,
    aten.cat.default,
    aten.clone.default,
    aten.to.dtype,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.dim,
    operator.getitem,
}


def saved_elsewhere(linear: fx.Node) -> str | None:
    """Why the activation of this linear is kept besides, or None if it is not.

    Args:
        linear: the node of a site in an exact graph. What an operator is not known to leave alone, it is taken to keep.
    """
    source = linear.args[0]
    while isinstance(source, fx.Node) and source.target in _VIEWS:
        source = source.args[0]
    if not isinstance(source, fx.Node):
        return None
    if source.target in _KEEPS_RESULT:
        return f"{source.name} keeps its result"
    for user in _readers(source):
        if user is not linear and user.op == "call_function" and user.target not in _KEEPS_NOTHING:
            return f"{user.name} keeps it too"
    return None


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What reads a value or a view of it; sizes read no data."""
    for user in node.users:
        if user.target in _VIEWS:
            yield from _readers(user)
        elif user.target is not aten.sym_size.int:
            yield user
