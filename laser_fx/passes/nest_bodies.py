"""Puts the bodies of a graph's loops into the nest that describes them."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from laser_fx.loops import Loop, LoopNest
from laser_fx.passes.infra import rolled_loop

__all__ = ["with_bodies"]


def with_bodies(nest: LoopNest, graph_module: fx.GraphModule) -> LoopNest:
    """The nest, with each loop's body as it stands in ``graph_module``."""
    bodies: dict[str, fx.GraphModule] = {}

    def collect(level: fx.GraphModule) -> None:
        for node in level.graph.nodes:
            loop = rolled_loop(level, node)
            if loop is not None:
                bodies[loop.name] = loop.body
                collect(loop.body)

    def attach(loop: Loop) -> Loop:
        return replace(loop, body=bodies[loop.name], children=tuple(attach(child) for child in loop.children))

    collect(graph_module)
    return LoopNest(tuple(attach(loop) for loop in nest.loops))
