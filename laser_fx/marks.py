"""What a node of a graph says of itself: the loop that it is in, its site, and the pass that made it.

It stands in ``node.meta["laser_fx"]`` and goes along where a node is copied. `laser_fx.readable` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import fx

from laser_fx.nodes import LOOP_SOURCE
from laser_fx.rolled import RolledLoop

__all__ = ["MARK", "Mark", "mark_loops", "printable"]

MARK = "laser_fx"
"""Key of a node's ``meta``: its `Mark`. What was captured and stands outside of loops has none."""


@dataclass(frozen=True)
class Mark:
    """Where a node belongs.

    Args:
        loop: name of the innermost loop around it, or that it runs; empty outside of loops.
        site: key of the site that it is a part of, ``loop_0:mlp.up``; empty where it is of none.
        made_by: the pass that wrote the node, ``reroll``.

    >>> print(Mark("loop_0", "loop_0:mlp.up", "insert_tracking"), Mark("loop_0", "", "reroll"), sep=" | ")
    site loop_0:mlp.up, by insert_tracking | loop_0, by reroll
    """

    loop: str
    site: str
    made_by: str

    def __str__(self) -> str:
        place = f"site {self.site}" if self.site else self.loop
        return ", ".join(part for part in (printable(place), f"by {self.made_by}") if part)

    def inside(self, loop: str) -> Mark:
        """The same node in a loop of another name."""
        site = f"{loop}:{self.site.partition(':')[2]}" if self.site else ""
        return replace(self, loop=loop, site=site)


def mark_loops(
    graph_module: fx.GraphModule,
    made_by: str,
    sites: Mapping[fx.Node, str] | None = None,
    sources: Mapping[str, str | None] | None = None,
) -> None:
    """Mark the nodes of a new graph's loops that have no mark yet, or one of another loop.

    Bodies that were captured as loops are the captured graph's own: their nodes get a mark too, and nothing else.

    Args:
        graph_module: a rolled graph.
        made_by: the pass that made it.
        sites: nodes that are sites, and their keys.
        sources: name of a loop → ``file:line`` in the model's code, for the nodes that run it.
    """
    for loop, node in _nodes(graph_module, ""):
        known = node.meta.get(MARK)
        if known is None:
            node.meta[MARK] = Mark(loop, (sites or {}).get(node, ""), made_by)
        elif known.loop != loop:
            node.meta[MARK] = known.inside(loop)
        if node.op == "call_module" and sources and sources.get(loop):
            node.meta.setdefault(LOOP_SOURCE, sources[loop])


def _nodes(level: fx.GraphModule, name: str) -> Iterator[tuple[str, fx.Node]]:
    """Nodes in loops, and those that run one, each with the name of that loop."""
    calls = level.graph.find_nodes(op="call_module")
    loops = {node: module for node in calls if isinstance(module := _module(level, node), RolledLoop)}
    for node in level.graph.nodes if name else loops:
        yield loops[node].name if node in loops else name, node
    for loop in loops.values():
        yield from _nodes(loop.body, loop.name)


def _module(level: fx.GraphModule, node: fx.Node) -> object:
    return level.get_submodule(str(node.target))


def printable(text: str) -> str:
    r"""Text that stays on its line, whatever a model calls its parts.

    >>> printable("mlp\nimport os")
    'mlp\\nimport os'
    """
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
