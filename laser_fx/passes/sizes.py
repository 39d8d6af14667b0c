"""Sizes in a graph that is being written: read off its own inputs, so that no loop takes a number from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from laser_fx.errors import PassError
from laser_fx.nodes import GRAD_ENABLED, read_size
from laser_fx.passes.keys import is_symbolic

__all__ = ["Sizes"]


class Sizes:
    """Called with a captured node whose value is a size: the same size in ``graph``, made once."""

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._known: dict[str, fx.Node] = {}

    def __call__(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        if not isinstance(value, torch.SymInt):
            return value
        name = str(value)
        if name not in self._known:
            found = read_size(self._graph, value, bool(node.meta.get(GRAD_ENABLED)))
            self._known[name] = found or self._computed(node)
        return self._known[name]

    def _computed(self, node: fx.Node) -> fx.Node:
        if any(not is_symbolic(source) for source in node.all_input_nodes):
            raise PassError(
                f"no input of the loop has the size {node.meta['val']}",
                where=node.name,
                fix="compile with the batch size fixed (dynamic=False)",
            )
        args, kwargs = fx.map_arg(node.args, self), fx.map_arg(node.kwargs, self)
        copied = self._graph.create_node(node.op, node.target, args, kwargs, node.name)
        copied.meta = dict(node.meta)
        return copied
