"""Random numbers of a traced graph, drawn in the order in which eager draws them.

A trace writes ``empty_like(x).bernoulli_(p)``, which is how torch drops out, as ``bernoulli(empty_like(x), p)``: it
fills rows first, where the write follows the strides of ``x``. The numbers are the same, at other places.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

__all__ = ["keep_order_of_draws"]

aten = torch.ops.aten

torch.library.define("laser::bernoulli", "(Tensor like, float p) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))


@torch.library.impl("laser::bernoulli", "CompositeExplicitAutograd")
def _bernoulli(like: Tensor, p: float) -> Tensor:
    return torch.empty_like(like).bernoulli_(p)


@torch.library.register_fake("laser::bernoulli")  # type: ignore[untyped-decorator]
def _fake(like: Tensor, p: float) -> Tensor:
    return torch.empty_like(like)


def keep_order_of_draws(graph: fx.Graph) -> None:
    """Replace writes of random bits into new tensors that are not contiguous by one operator that writes into none.

    >>> mask = torch.ops.laser.bernoulli(torch.empty(6, 4).t(), 0.5)
    >>> mask.stride()
    (1, 4)
    """
    for node in graph.find_nodes(op="call_function", target=aten.bernoulli_.float):
        source, *p = node.args
        is_new = source.target is aten.empty_like.default and len(source.users) == 1
        if is_new and not source.meta["val"].is_contiguous() and not node.kwargs:
            with graph.inserting_before(node):
                drawn = graph.call_function(torch.ops.laser.bernoulli.default, (source, *(p or [0.5])))
            drawn.meta = dict(node.meta)
            node.replace_all_uses_with(drawn)
            graph.erase_node(node)
