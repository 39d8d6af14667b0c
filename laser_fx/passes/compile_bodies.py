"""Runs the bodies of a planned training graph as `torch.compile` would: operators fused, numbers to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from laser_fx.passes.cut_segments import segments_of
from laser_fx.rolled import RolledLoop

__all__ = ["compile_bodies"]


def compile_bodies(planned: fx.GraphModule) -> None:
    """Compile every segment's forward and backward, and the bodies of innermost loops without gradients.

    Each is compiled when it first runs, and again for every other form of its inputs.
    """
    for segment in segments_of(planned):
        segment.compile_with(inductor)
    for loop in planned.modules():
        if isinstance(loop, RolledLoop) and _is_plain(loop.body):
            loop.compiled_body = inductor(loop.body)


def inductor(graph_module: fx.GraphModule) -> Callable[..., Any]:
    """A function that computes what a graph does."""
    compiled: Callable[..., Any] = torch.compile(graph_module.forward, fullgraph=True, dynamic=False)
    return compiled


def _is_plain(body: fx.GraphModule) -> bool:
    return not any(node.op == "call_module" for node in body.graph.nodes)
