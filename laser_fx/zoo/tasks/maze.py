"""Mazes with exactly one shortest path between start and goal."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from laser_fx.errors import OptionError
from laser_fx.zoo.tasks.base import Batch, Grids, Split, augmented, collect

__all__ = ["GOAL", "OPEN", "PATH", "START", "WALL", "Maze", "shortest_path"]

WALL, OPEN, START, GOAL, PATH = 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Maze:
    """A ``size``×``size`` maze: rooms on even rows and columns, walls or doors between them.

    Tokens are those of the published maze task: 0 padding (unused), 1 wall, 2 open, 3 start, 4 goal, and in the
    answer 5 for the cells of the shortest path between start and goal.

    Args:
        size: odd, at least 7.
        openings: doors beyond those of a spanning tree, so that the maze has cycles. Mazes whose shortest path is not
            the only one are dropped.
        min_path: least number of steps from start to goal.
        max_path: largest number of steps; ``None`` for any.

    Raises:
        OptionError: a size, a number of openings, or a range of path lengths that no maze has.

    >>> batch = Maze(7, min_path=4).batch(3, seed=0)
    >>> batch["inputs"].shape, bool(((batch["labels"] == PATH).sum(dim=1) >= 3).all())
    (torch.Size([3, 49]), True)
    """

    size: int = 7
    openings: int = 0
    min_path: int = 2
    max_path: int | None = None

    def __post_init__(self) -> None:
        if self.size < 7 or self.size % 2 == 0:
            raise OptionError(f"size is {self.size!r}", where="Maze.size", fix="choose an odd number of at least 7")
        if not 0 <= self.openings <= self.rooms:
            raise OptionError(
                f"openings is {self.openings!r}", where="Maze.openings", fix=f"choose 0 to {self.rooms}, one per row"
            )
        longest = self.size - 1
        if not 2 <= self.min_path <= longest:
            fix = f"choose 2 to {longest}, the way straight across"
            raise OptionError(f"min_path is {self.min_path!r}", where="Maze.min_path", fix=fix)
        if self.max_path is not None and self.max_path < self.min_path:
            raise OptionError(
                f"max_path is {self.max_path!r}",
                where="Maze.max_path",
                fix=f"choose at least min_path, {self.min_path}",
            )

    @property
    def rooms(self) -> int:
        """Rooms along one side."""
        return (self.size + 1) // 2

    @property
    def seq_len(self) -> int:
        """Cells of the grid."""
        return self.size**2

    @property
    def vocab_size(self) -> int:
        """Padding, wall, open, start, goal, path."""
        return 6

    def batch(self, count: int, seed: int, split: Split = "train") -> Batch:
        """``count`` mazes of `split` and their shortest paths, see `Task.batch`."""
        rng = np.random.default_rng(seed)
        return collect(lambda: self._draw(rng), count, split)

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Every maze turned or mirrored, and start and goal exchanged in half of them."""
        rng = np.random.default_rng(seed)
        count = len(batch["inputs"])
        cells = self._symmetries()[rng.integers(8, size=count)]
        exchanged = rng.integers(2, size=count)
        names = np.array([[0, WALL, OPEN, START, GOAL, PATH], [0, WALL, OPEN, GOAL, START, PATH]])[exchanged]

        def change(grids: Grids) -> Grids:
            return np.take_along_axis(names, np.take_along_axis(grids, cells, axis=1), axis=1)

        return augmented(batch, lambda inputs, labels: (change(inputs), change(labels)))

    def _symmetries(self) -> Grids:
        grid = np.arange(self.seq_len).reshape(self.size, self.size)
        turned = [np.rot90(grid, quarter) for quarter in range(4)]
        return np.stack([view.reshape(-1) for view in turned + [view.T for view in turned]])

    def _draw(self, rng: np.random.Generator) -> tuple[Grids, Grids]:
        while True:
            grid = self._carve(rng)
            ends = 2 * rng.integers(self.rooms, size=(2, 2)) @ np.array([self.size, 1])
            path = shortest_path(grid.tolist(), int(ends[0]), int(ends[1]), self.size)
            if path is not None and self._wants(len(path) - 1):
                return _as_tokens(grid, path)

    def _wants(self, length: int) -> bool:
        return length >= self.min_path and (self.max_path is None or length <= self.max_path)

    def _carve(self, rng: np.random.Generator) -> Grids:
        """A flat grid of walls and open cells: a random depth-first spanning tree of the rooms, then the openings."""
        grid = np.full(self.seq_len, WALL, dtype=np.int64)
        start = int(2 * (rng.integers(self.rooms) * self.size + rng.integers(self.rooms)))
        grid[start] = OPEN
        trail = [start]
        while trail:
            unvisited = [room for room in self._neighbours(trail[-1]) if grid[room] == WALL]
            if not unvisited:
                trail.pop()
                continue
            room = unvisited[rng.integers(len(unvisited))]
            grid[room] = grid[(room + trail[-1]) // 2] = OPEN
            trail.append(room)
        doors = [cell for cell in range(self.seq_len) if grid[cell] == WALL and sum(divmod(cell, self.size)) % 2]
        grid[rng.permutation(doors)[: self.openings]] = OPEN
        return grid

    def _neighbours(self, room: int) -> list[int]:
        row, column = divmod(room, self.size)
        steps = ((2, 0), (-2, 0), (0, 2), (0, -2))
        places = ((row + down, column + right) for down, right in steps)
        return [r * self.size + c for r, c in places if 0 <= r < self.size and 0 <= c < self.size]


def _as_tokens(grid: Grids, path: list[int]) -> tuple[Grids, Grids]:
    puzzle = grid.copy()
    puzzle[path[0]], puzzle[path[-1]] = START, GOAL
    answer = puzzle.copy()
    answer[path[1:-1]] = PATH
    return puzzle, answer


def shortest_path(grid: list[int], start: int, goal: int, size: int) -> list[int] | None:
    """The cells from start to goal by breadth-first search; None where there is no way, or more than one shortest.

    >>> shortest_path([OPEN, OPEN, WALL, OPEN], 1, 3, size=2) is None
    False
    >>> shortest_path([OPEN] * 4, 0, 3, size=2) is None
    True
    """
    distance, ways, before = {start: 0}, {start: 1}, {start: start}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        for step in _open_neighbours(grid, cell, size):
            if step not in distance:
                distance[step], ways[step], before[step] = distance[cell] + 1, 0, cell
                queue.append(step)
            if distance[step] == distance[cell] + 1:
                ways[step] += ways[cell]
    if ways.get(goal) != 1:
        return None
    path = [goal]
    while path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]


def _open_neighbours(grid: list[int], cell: int, size: int) -> list[int]:
    column = cell % size
    steps = []
    if column > 0:
        steps.append(cell - 1)
    if column < size - 1:
        steps.append(cell + 1)
    if cell >= size:
        steps.append(cell - size)
    if cell + size < len(grid):
        steps.append(cell + size)
    return [step for step in steps if grid[step] != WALL]
