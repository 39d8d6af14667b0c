"""Inlines what the tracer set apart because the model switches its grad mode there."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

import torch
from torch import fx

from laser_fx.errors import CaptureError
from laser_fx.nodes import GRAD_ENABLED

__all__ = ["inline_regions"]

_SET_GRAD = torch.ops.higher_order.wrap_with_set_grad_enabled
_ASSERTIONS = frozenset(
    {
        torch.ops.aten._assert_tensor_metadata.default,
        torch.ops.aten._assert_scalar.default,
        torch.ops.aten.sym_constrain_range_for_size.default,
    }
)


def inline_regions(graph_module: fx.GraphModule, grad_enabled: bool, names: Mapping[str, str]) -> fx.Graph:
    """Copy the graph with `wrap_with_set_grad_enabled` regions inlined, the mode kept on each node.

    Args:
        graph_module: as the tracer made it.
        grad_enabled: the mode at the graph's door.
        names: the tracer's names of placeholders → readable ones.

    Raises:
        CaptureError: the graph has an inner graph of another kind.
    """
    graph = fx.Graph()

    def copy_into(source: fx.GraphModule, env: dict[fx.Node, Any], enabled: bool) -> Any:
        for node in source.graph.nodes:
            if node.op == "output":
                return fx.map_arg(node.args[0], lambda n: env[n])
            if node.op == "get_attr" and isinstance(getattr(source, str(node.target), None), fx.GraphModule):
                env[node] = getattr(source, str(node.target))
            elif node.target is _SET_GRAD:
                mode, region, *arguments = node.args
                inner = env[region] if isinstance(region, fx.Node) else region
                holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
                values = [env[a] if isinstance(a, fx.Node) else a for a in arguments]
                env[node] = copy_into(inner, dict(zip(holders, values, strict=True)), bool(mode))
            elif node.op == "call_function" and node.target is getitem and not isinstance(env[node.args[0]], fx.Node):
                env[node] = env[node.args[0]][node.args[1]]
            elif node not in env:
                env[node] = _copy_node(graph, node, env, names)
                env[node].meta[GRAD_ENABLED] = enabled
        raise CaptureError("the traced graph returns nothing", where=type(source).__name__)

    graph.output(copy_into(graph_module, {}, grad_enabled))
    _drop_dead(graph)
    return graph


def _drop_dead(graph: fx.Graph) -> None:
    """Drop assertions, which hold for what is captured, and what nothing reads; random draws stay."""
    for node in reversed(graph.nodes):
        if node.target in _ASSERTIONS:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _copy_node(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, Any], names: Mapping[str, str]) -> fx.Node:
    opaque = [a for a in node.all_input_nodes if isinstance(env.get(a), fx.GraphModule)]
    if opaque:
        raise CaptureError(
            f"the model uses {node.target}, whose inner graph laser-fx does not look into",
            where=node.stack_trace,
            fix="move the context manager or control-flow operator outside of the model",
        )
    copied = graph.node_copy(node, lambda n: env[n])
    if node.op == "placeholder":
        copied.name = copied.target = names.get(node.name, node.name)
    if _detaches_a_literal(node):
        copied.target = torch.ops.aten.detach.default
    return copied


_FRESH = {torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.scalar_tensor.default}


def _detaches_a_literal(node: fx.Node) -> bool:
    """``torch.tensor(…)`` in the model's code: a fresh value that nothing else reads is detached in place."""
    if node.target is not torch.ops.aten.detach_.default:
        return False
    literal = node.all_input_nodes[0]
    while literal.target is torch.ops.aten.to.device and len(literal.users) == 1:
        literal = literal.all_input_nodes[0]
    return literal.target in _FRESH and len(literal.users) == 1
