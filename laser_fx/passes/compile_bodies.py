"""Runs the bodies of a planned training graph as `torch.compile` would: operators fused, numbers to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from laser_fx.memory.segment import Segment
from laser_fx.passes.cut_segments import segments_of
from laser_fx.rolled import RolledLoop

__all__ = ["compile_bodies"]


def compile_bodies(planned: fx.GraphModule) -> None:
    """Compile every segment's forward and backward, and the bodies of innermost loops without gradients.

    Each is compiled when it first runs, and again for every other form of its inputs. Segments are the plan's own;
    loops without one stand in other graphs of the program too, so that this one gets copies.
    """
    for segment in segments_of(planned):
        segment.compile_with(inductor)
    _compile_loops(planned)


def _compile_loops(parent: nn.Module) -> None:
    for name, child in list(parent.named_children()):
        if isinstance(child, RolledLoop) and not _holds_segments(child):
            setattr(parent, name, _compiled(child))
        else:
            _compile_loops(child)


def _compiled(loop: RolledLoop) -> RolledLoop:
    """A copy whose innermost bodies are compiled."""
    copied = copy.deepcopy(loop)
    for inner in copied.modules():
        if isinstance(inner, RolledLoop) and _is_plain(inner.body):
            inner.compiled_body = inductor(inner.body)
    return copied


def _holds_segments(loop: RolledLoop) -> bool:
    return any(isinstance(module, Segment) for module in loop.modules())


def inductor(graph_module: fx.GraphModule) -> Callable[..., Any]:
    """A function that computes what a graph does."""
    compiled: Callable[..., Any] = torch.compile(graph_module.forward, fullgraph=True, dynamic=False)
    return compiled


def _is_plain(body: fx.GraphModule) -> bool:
    return not any(node.op == "call_module" for node in body.graph.nodes)
