"""Minimum cuts of small networks, by Dinic's algorithm."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

__all__ = ["INFINITE", "Network"]

INFINITE = 1 << 62
"""A capacity that no cut pays."""


class Network:
    """A directed network with whole capacities.

    >>> network = Network()
    >>> network.connect("s", "a", 3)
    >>> network.connect("a", "t", 2)
    >>> sorted(network.source_side("s", "t"))
    ['a', 's']
    """

    def __init__(self) -> None:
        self._index: dict[Hashable, int] = {}
        self._edges: list[list[int]] = []
        self._heads: list[int] = []
        self._room: list[int] = []

    def connect(self, tail: Hashable, head: Hashable, capacity: int) -> None:
        """Add an edge of this capacity."""
        for end, start, room in ((head, tail, capacity), (tail, head, 0)):
            self._edges[self._at(start)].append(len(self._heads))
            self._heads.append(self._at(end))
            self._room.append(room)

    def source_side(self, source: Hashable, sink: Hashable) -> set[Hashable]:
        """The nodes on the source's side of the minimum cut that is nearest to the source."""
        start, end = self._at(source), self._at(sink)
        levels = self._levels(start)
        while levels[end] >= 0:
            self._saturate(start, end, levels)
            levels = self._levels(start)
        return {name for name, index in self._index.items() if levels[index] >= 0}

    def _at(self, name: Hashable) -> int:
        if name not in self._index:
            self._index[name] = len(self._edges)
            self._edges.append([])
        return self._index[name]

    def _levels(self, start: int) -> list[int]:
        """Distance of every node from the source over edges that have room; −1 where it cannot be reached."""
        levels = [-1] * len(self._edges)
        levels[start] = 0
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            for edge in self._edges[here]:
                there = self._heads[edge]
                if self._room[edge] and levels[there] < 0:
                    levels[there] = levels[here] + 1
                    waiting.append(there)
        return levels

    def _saturate(self, start: int, end: int, levels: list[int]) -> None:
        """Push flow along shortest paths until none has room."""
        tried, path, here = [0] * len(self._edges), list[int](), start
        while True:
            if here == end:
                self._push(path)
                path, here = [], start
                continue
            edge = self._next_edge(here, tried, levels)
            if edge is not None:
                path.append(edge)
                here = self._heads[edge]
            elif path:
                here = self._heads[path.pop() ^ 1]
                tried[here] += 1
            else:
                return

    def _next_edge(self, here: int, tried: list[int], levels: list[int]) -> int | None:
        edges = self._edges[here]
        while tried[here] < len(edges):
            edge = edges[tried[here]]
            if self._room[edge] and levels[self._heads[edge]] == levels[here] + 1:
                return edge
            tried[here] += 1
        return None

    def _push(self, path: list[int]) -> None:
        amount = min(self._room[edge] for edge in path)
        for edge in path:
            self._room[edge] -= amount
            self._room[edge ^ 1] += amount
