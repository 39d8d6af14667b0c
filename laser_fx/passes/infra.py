"""What every pass has in common: a graph in, a new graph out, and a word about what was done."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import getitem

import torch
from torch import fx

from laser_fx.errors import PassError
from laser_fx.nodes import placeholder
from laser_fx.readable import ReadableModule
from laser_fx.rolled import RolledLoop

__all__ = [
    "SET_GRAD",
    "PassResult",
    "collector_paused",
    "count_nodes",
    "finish",
    "getitem",
    "placeholder",
    "rolled_loop",
]

SET_GRAD = torch._C._set_grad_enabled


@dataclass(frozen=True)
class PassResult:
    """What a pass made.

    Args:
        graph_module: a new graph; the pass's input is untouched.
        notes: what the pass did, one sentence each.
    """

    graph_module: fx.GraphModule
    notes: tuple[str, ...] = ()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cyclic collector waits: passes make many small objects that live, and each search of them is in vain.

    It took a quarter of the passes' time on long graphs.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def finish(root: torch.nn.Module, graph: fx.Graph, name: str) -> fx.GraphModule:
    """Lint the graph and compile it to a module; ``name`` heads its printed code."""
    try:
        graph.lint()
    except RuntimeError as error:
        raise PassError(f"{name} made a malformed graph: {error}", where=name) from error
    return ReadableModule(root, graph, class_name=name)


def rolled_loop(graph_module: fx.GraphModule, node: fx.Node) -> RolledLoop | None:
    """The loop that a ``call_module`` node runs, None for any other node."""
    if node.op != "call_module":
        return None
    module = graph_module.get_submodule(str(node.target))
    return module if isinstance(module, RolledLoop) else None


def count_nodes(graph_module: fx.GraphModule) -> int:
    """Nodes of a graph and of every loop body in it."""
    inner = (rolled_loop(graph_module, node) for node in graph_module.graph.nodes)
    return len(graph_module.graph.nodes) + sum(count_nodes(loop.body) for loop in inner if loop is not None)
