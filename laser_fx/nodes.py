"""What every graph of this package has on its nodes, from capture on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["GRAD_ENABLED", "LOOP_SOURCE", "code_line", "draws_nothing", "is_mutating", "placeholder", "read_size"]

GRAD_ENABLED = "grad_enabled"
"""Key of a node's ``meta``: the grad mode that it was captured under. ``meta["val"]`` is its fake value."""

LOOP_SOURCE = "loop_source"
"""Key of the ``meta`` of a call of a structured loop: ``file:line`` of the loop in the model's code."""


def code_line(node: fx.Node) -> str:
    """The line of the model's code that made the node; its name where the tracer kept no line."""
    lines = [line.strip() for line in (node.stack_trace or "").splitlines()]
    return next((line for line in reversed(lines) if line.strip("^~ ")), node.name)


def placeholder(graph: fx.Graph, name: str, value: Any, grad_enabled: bool) -> fx.Node:
    """A new input of a graph. It is named after what the graph does not name so yet: ``x``, then ``x_1``."""
    node = graph.create_node("placeholder", name, name=name)
    node.target = node.name  # the argument in the generated code, which must be unique too
    node.meta = {"val": value, GRAD_ENABLED: grad_enabled}
    return node


def is_mutating(node: fx.Node) -> bool:
    """Whether the node writes into one of its inputs."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def draws_nothing(node: fx.Node) -> bool:
    """Whether an operator that may draw random numbers draws none with these arguments: not training, or no dropout.

    >>> dropout = torch.ops.aten.dropout.default
    >>> [draws_nothing(fx.Graph().call_function(dropout, args)) for args in ((1, 0.1, False), (1, 0.0, True))]
    [True, True]
    >>> draws_nothing(fx.Graph().call_function(dropout, (1, 0.1, True)))
    False
    """
    schema = node.target._schema  # type: ignore[union-attr]
    values: dict[str, Any] = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    values |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    trains = [values[name] for name in ("train", "training") if name in values]
    shares = [values[name] for name in ("dropout_p", *(["p"] if "dropout" in schema.name else [])) if name in values]
    return any(flag is False for flag in trains) or any(share == 0 for share in shares)


def read_size(graph: fx.Graph, value: Any, grad_enabled: bool) -> fx.Node | None:
    """A symbolic size as a new node that reads it off an input of the graph; None where no input has it."""
    if not isinstance(value, torch.SymInt):
        return None
    for holder in graph.find_nodes(op="placeholder"):
        held = holder.meta.get("val")
        for dimension, size in enumerate(held.shape if isinstance(held, Tensor) else ()):
            if isinstance(size, torch.SymInt) and str(size) == str(value):
                read = graph.call_function(torch.ops.aten.sym_size.int, (holder, dimension))
                read.meta = {"val": size, GRAD_ENABLED: grad_enabled}
                return read
    return None
