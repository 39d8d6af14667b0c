"""A file answers the same each time: what draws random numbers does not belong in it."""

from __future__ import annotations

from torch import fx

from laser_fx.errors import ExportError
from laser_fx.nodes import draws_nothing
from laser_fx.passes.keys import is_random
from laser_fx.passes.source import node_line

__all__ = ["refuse_random"]


def refuse_random(module: fx.GraphModule) -> None:
    """Refuse a graph that draws random numbers, in itself or in a loop.

    What draws in training only, such as dropout, is no obstacle in a graph for evaluation.

    Raises:
        ExportError: naming operator, node and line.
    """
    levels = [level for level in module.modules() if isinstance(level, fx.GraphModule)]
    for node in (node for level in levels for node in level.graph.nodes):
        if node.op == "call_function" and is_random(node) and not draws_nothing(node):
            raise ExportError(
                f"{node.target} draws random numbers, and the file would answer differently each time",
                where=", ".join(filter(None, (node.name, node_line(node)))),
                fix="pass the random value to the model as an input, or draw it in training only",
            )
