"""Cuts the loops out of one level of a rolled graph: what is left is a straight line, which torch can translate.

A level is the top of a rolled graph or the body of one loop. Its loop calls, and the `getitem` nodes that take their
results apart, are *opaque*: `laser_fx.export.stitch` makes them. Everything else becomes a graph of its own, in which
results of loops are inputs and what the loops read is output.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.errors import ExportError
from laser_fx.nodes import code_line
from laser_fx.rolled import RolledLoop

__all__ = ["Level", "cut", "example", "hint", "loop_of", "results_of"]


@dataclass(frozen=True)
class Level:
    """One level, cut.

    Args:
        straight: the graph without its loops.
        inputs: the nodes of the level that feed it, in the order of its placeholders.
        outputs: the nodes of the level that it computes, in the order of its results.
        opaque: loop calls and the nodes that take them apart, in the order of the level.
    """

    straight: fx.GraphModule
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    opaque: tuple[fx.Node, ...]


def loop_of(node: fx.Node) -> RolledLoop | None:
    """The loop that a node calls, if it calls one."""
    if node.op != "call_module":
        return None
    owner = node.graph.owning_module
    module = None if owner is None else owner.get_submodule(str(node.target))
    if not isinstance(module, RolledLoop):
        raise ExportError(
            f"a call of {type(module).__name__} cannot be written as ONNX",
            where=node.name,
            fix="export a graph whose only modules are loops",
        )
    return module


def results_of(module: fx.GraphModule) -> tuple[Any, ...]:
    """What the output node returns, in order."""
    results: Any = module.graph.output_node().args[0]
    return tuple(results)


def cut(module: fx.GraphModule) -> Level:
    """Cut all loops out of a level.

    Raises:
        ExportError: a symbolic size or a tuple enters or leaves a loop: only tensors can.
    """
    opaque = _opaque(module.graph)
    read = [argument for node in opaque if node.op == "call_module" for argument in node.args]
    wanted = [n for n in (*read, *results_of(module)) if isinstance(n, fx.Node)]
    outputs = tuple(dict.fromkeys(n for n in wanted if n.op != "placeholder" and n not in opaque))
    kept = _needed(outputs, opaque)
    inputs = tuple(n for n in module.graph.nodes if n in kept and (n.op == "placeholder" or n in opaque))
    for node in (*outputs, *inputs):
        _check_tensor(node)
    return Level(_straight(module, inputs, outputs, kept), inputs, outputs, tuple(opaque))


def _opaque(graph: fx.Graph) -> dict[fx.Node, None]:
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if loop_of(node) is not None or (node.target is operator.getitem and node.args[0] in found):
            found[node] = None
    return found


def _needed(outputs: tuple[fx.Node, ...], opaque: dict[fx.Node, None]) -> set[fx.Node]:
    needed: set[fx.Node] = set()
    pending = list(outputs)
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending += [] if node in opaque else node.all_input_nodes
    return needed


def _check_tensor(node: fx.Node) -> None:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        is_tuple = isinstance(value, (tuple, list))
        raise ExportError(
            f"{node.name} passes a {'tuple' if is_tuple else 'size'} into or out of a loop; only tensors can pass",
            where=code_line(node),
            fix="take it apart in the step that makes it, and hand on its parts"
            if is_tuple
            else "make the size inside the loop from a tensor's shape",
        )


def _straight(
    module: fx.GraphModule, inputs: tuple[fx.Node, ...], outputs: tuple[fx.Node, ...], kept: set[fx.Node]
) -> fx.GraphModule:
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in module.graph.nodes:
        if node in kept and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    graph.lint()
    return fx.GraphModule(module, graph)


def example(value: Tensor) -> Tensor:
    """Zeros like a fake tensor, symbolic sizes at their hints."""
    return torch.zeros([hint(size) for size in value.shape], dtype=value.dtype, device=value.device)


def hint(size: int | torch.SymInt) -> int:
    """The size at capture."""
    return size if isinstance(size, int) else int(size.node.hint)
