"""Sudoku puzzles of 4×4, 6×6 and 9×9 cells with exactly one solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from laser_fx.errors import OptionError
from laser_fx.zoo.tasks.base import Batch, Grids, Split, augmented, collect

__all__ = ["Sudoku", "solve"]

# Rows and columns of a box, by the side of the grid.
_BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
# Fewer givens than these are rare or impossible, and a search for them would not end.
_FEWEST = {4: 4, 6: 10, 9: 24}


@dataclass(frozen=True)
class Sudoku:
    """Sudoku of ``size``×``size`` cells with ``givens`` filled in. Token 0 is an empty cell, d is the digit d.

    Args:
        size: 4, 6 (boxes of 2×3) or 9.
        givens: filled cells; ``None`` for a third of them.

    Raises:
        OptionError: another size, or a number of givens that puzzles with one solution do not have.

    >>> batch = Sudoku(4, givens=6).batch(2, seed=0)
    >>> batch["inputs"].shape, (batch["inputs"] > 0).sum(dim=1).tolist()
    (torch.Size([2, 16]), [6, 6])
    >>> solve(batch["inputs"][0].tolist(), size=4) == [batch["labels"][0].tolist()]
    True
    """

    size: int = 6
    givens: int | None = None

    def __post_init__(self) -> None:
        if self.size not in _BOXES:
            raise OptionError(f"size is {self.size!r}", where="Sudoku.size", fix="choose 4, 6 or 9")
        least, most = _FEWEST[self.size], self.size**2
        if not least <= self.given_count <= most:
            fix = f"choose {least} to {most}, or None"
            raise OptionError(f"givens is {self.givens!r}", where="Sudoku.givens", fix=fix)

    @property
    def given_count(self) -> int:
        """Filled cells of every puzzle."""
        return max(_FEWEST[self.size], self.size**2 // 3) if self.givens is None else self.givens

    @property
    def seq_len(self) -> int:
        """Cells of the grid."""
        return self.size**2

    @property
    def vocab_size(self) -> int:
        """The digits and the empty cell."""
        return self.size + 1

    def batch(self, count: int, seed: int, split: Split = "train") -> Batch:
        """``count`` puzzles of `split` and their solutions, see `Task.batch`."""
        rng = np.random.default_rng(seed)
        return collect(lambda: self._draw(rng), count, split)

    def augment(self, batch: Batch, seed: int) -> Batch:
        """Every puzzle with its digits renamed, and rows, columns, bands and stacks put in another order."""
        rng = np.random.default_rng(seed)
        count = len(batch["inputs"])
        cells = np.stack([self._shuffled_cells(rng) for _ in range(count)])
        names = np.stack([_renaming(self.size, rng) for _ in range(count)])

        def change(grids: Grids) -> Grids:
            return np.take_along_axis(names, np.take_along_axis(grids, cells, axis=1), axis=1)

        return augmented(batch, lambda inputs, labels: (change(inputs), change(labels)))

    def _draw(self, rng: np.random.Generator) -> tuple[Grids, Grids]:
        while True:
            solution = solve([0] * self.seq_len, self.size, rng=rng)[0]
            puzzle = self._dig(solution, rng)
            if puzzle is not None:
                return np.array(puzzle, dtype=np.int64), np.array(solution, dtype=np.int64)

    def _dig(self, solution: list[int], rng: np.random.Generator) -> list[int] | None:
        """Empty cells in random order while the solution stays the only one; None if too many givens remain."""
        puzzle, filled = list(solution), self.seq_len
        for cell in rng.permutation(self.seq_len).tolist():
            if filled == self.given_count:
                return puzzle
            puzzle[cell] = 0
            # Another solution would need another digit here, since the cell's own digit leads to the one known.
            if solve(puzzle, self.size, forbidden=(cell, solution[cell])):
                puzzle[cell] = solution[cell]
            else:
                filled -= 1
        return puzzle if filled == self.given_count else None

    def _shuffled_cells(self, rng: np.random.Generator) -> Grids:
        height, width = _BOXES[self.size]
        rows = _shuffled_lines(self.size, height, rng)
        columns = _shuffled_lines(self.size, width, rng)
        return (rows[:, None] * self.size + columns[None, :]).reshape(-1)


def _shuffled_lines(size: int, group: int, rng: np.random.Generator) -> Grids:
    """A new order of rows (or columns) that keeps groups of ``group`` lines together."""
    groups = rng.permutation(size // group)
    return np.concatenate([number * group + rng.permutation(group) for number in groups])


def _renaming(size: int, rng: np.random.Generator) -> Grids:
    return np.concatenate([[0], 1 + rng.permutation(size)])


def solve(
    puzzle: Sequence[int],
    size: int,
    limit: int = 1,
    forbidden: tuple[int, int] | None = None,
    rng: np.random.Generator | None = None,
) -> list[list[int]]:
    """Up to ``limit`` solutions, by depth-first search at the cell with the fewest candidates.

    Args:
        puzzle: size² digits, 0 for an empty cell, without contradiction among the givens.
        size: 4, 6 or 9.
        limit: stop after this many; 2 tells whether a solution is the only one.
        forbidden: (cell, digit): solutions with this digit in this empty cell do not count.
        rng: try digits in random order.

    >>> len(solve([1, 2, 0, 0] + [0] * 12, size=4, limit=5))
    5
    """
    return _Search(list(puzzle), size, limit, forbidden, rng).run()


class _Search:
    """The state of one search: a bit mask of the digits used in every row, column and box."""

    def __init__(
        self,
        cells: list[int],
        size: int,
        limit: int,
        forbidden: tuple[int, int] | None,
        rng: np.random.Generator | None,
    ) -> None:
        self.cells, self.limit, self.forbidden, self.rng = cells, limit, forbidden, rng
        self.all_digits = (1 << size) - 1
        self.used = [0] * (3 * size)
        self.units = _UNITS[size]
        self.empty = [cell for cell, digit in enumerate(cells) if digit == 0]
        self.found: list[list[int]] = []
        for cell, digit in enumerate(cells):
            if digit:
                self._toggle(cell, 1 << (digit - 1))

    def run(self) -> list[list[int]]:
        self._descend()
        return self.found

    def _toggle(self, cell: int, bit: int) -> None:
        for unit in self.units[cell]:
            self.used[unit] ^= bit

    def _descend(self) -> None:
        if not self.empty:
            self.found.append(list(self.cells))
            return
        place, candidates = self._narrowest()
        if not candidates:
            return
        cell = self.empty[place]
        # The order of empty cells is free, so the last one can fill the gap.
        self.empty[place] = self.empty[-1]
        self.empty.pop()
        for bit in self._ordered(candidates):
            self.cells[cell] = bit.bit_length()
            self._toggle(cell, bit)
            self._descend()
            self._toggle(cell, bit)
            if len(self.found) == self.limit:
                break
        self.cells[cell] = 0
        self.empty.append(cell)

    def _narrowest(self) -> tuple[int, int]:
        """Position in ``empty`` and candidates of the cell with the fewest."""
        used, units, all_digits = self.used, self.units, self.all_digits
        best_place, best, fewest = 0, 0, 99
        for place, cell in enumerate(self.empty):
            row, column, box = units[cell]
            candidates = all_digits & ~(used[row] | used[column] | used[box])
            if self.forbidden is not None and cell == self.forbidden[0]:
                candidates &= ~(1 << (self.forbidden[1] - 1))
            count = candidates.bit_count()
            if count < fewest:
                best_place, best, fewest = place, candidates, count
                if count < 2:
                    break
        return best_place, best

    def _ordered(self, candidates: int) -> list[int]:
        bits = [1 << place for place in range(candidates.bit_length()) if candidates >> place & 1]
        if self.rng is not None:
            self.rng.shuffle(bits)
        return bits


def _units(size: int) -> list[tuple[int, int, int]]:
    """Row, column and box of every cell, as positions in one list of units."""
    height, width = _BOXES[size]
    per_band = size // width

    def of(row: int, column: int) -> tuple[int, int, int]:
        return row, size + column, 2 * size + row // height * per_band + column // width

    return [of(row, column) for row in range(size) for column in range(size)]


_UNITS = {size: _units(size) for size in _BOXES}
