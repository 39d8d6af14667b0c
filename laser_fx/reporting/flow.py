"""What flows between the sites of a report: its picture, without the nodes that are neither a site nor carried."""

from __future__ import annotations

from collections.abc import Iterator

from laser_fx.reporting.measured import GraphPicture, PictureNode

__all__ = ["flows"]

Edge = tuple[str, str, bool]
"""From, to, and whether it goes to the next step. Sites are named by their key, what a loop carries by the loop."""


def flows(picture: GraphPicture) -> tuple[Edge, ...]:
    """Edges between sites and carries, in program order.

    An edge is left out where a longer way has the same ends: residual connections would hide everything else.

    >>> nodes = (
    ...     PictureNode("loop_0/z", "z", "input", (), "loop_0", carried=("loop_0/add",)),
    ...     PictureNode("loop_0/linear", "linear", "operator", ("loop_0/z",), "loop_0", "up", "loop_0:up"),
    ...     PictureNode("loop_0/add", "add", "operator", ("loop_0/z", "loop_0/linear"), "loop_0"),
    ... )
    >>> flows(GraphPicture(nodes))
    (('loop_0', 'loop_0:up', False), ('loop_0:up', 'loop_0', True))
    """
    found = _Flows(picture)
    return (*found.onward(), *dict.fromkeys(found.back()))


class _Flows:
    def __init__(self, picture: GraphPicture) -> None:
        self.nodes = picture.nodes
        self.origins: dict[str, tuple[str, ...]] = {}
        self.following: dict[str, dict[str, None]] = {}
        for node in self.nodes:
            own = _stop(node)
            sources = tuple(dict.fromkeys(origin for name in node.inputs for origin in self.origins.get(name, ())))
            self.origins[node.name] = (own,) if own else sources
            if own:
                self.following.setdefault(own, {})
                for source in sources:
                    self.following[source] |= {own: None} if source != own else {}
        self.reached = self._reached()

    def _reached(self) -> dict[str, set[str]]:
        """From each stop, the stops that its value reaches: those that follow come later in the program."""
        reached: dict[str, set[str]] = {}
        for source in reversed(self.following):
            following = self.following[source]
            reached[source] = set(following).union(*(reached.get(target, ()) for target in following))
        return reached

    def onward(self) -> Iterator[Edge]:
        for source, following in self.following.items():
            for target in following:
                if not any(target in self.reached[other] for other in following if other != target):
                    yield source, target, False

    def back(self) -> Iterator[Edge]:
        """What the next step gets, from the stops at which it was made last."""
        for node in self.nodes:
            for name in node.carried:
                origins = self.origins.get(name, ())
                for origin in origins:
                    if not self.reached[origin].intersection(origins):
                        yield origin, _stop(node), True


def _stop(node: PictureNode) -> str:
    """The name of a node that stays; empty for one that is looked through."""
    return node.site or (node.loop if node.carried else "")
