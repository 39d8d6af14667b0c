"""Tasks: one right answer to every puzzle, the same puzzles for the same seed, and train and test apart."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
import torch

from laser_fx.errors import OptionError
from laser_fx.zoo.tasks import Maze, Sudoku, Task, is_held_out
from laser_fx.zoo.tasks.maze import GOAL, OPEN, PATH, START, WALL
from laser_fx.zoo.tasks.sudoku import solve

SUDOKUS = [Sudoku(4, givens=5), Sudoku(6, givens=12), Sudoku(9, givens=32)]
MAZES = [Maze(7), Maze(9, openings=3, min_path=6), Maze(11, max_path=20)]
TASKS: list[Task] = [*SUDOKUS, *MAZES]
BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}


def augmented(task: Task) -> list[tuple[list[int], list[int]]]:
    """A few puzzles of a task as made, and as its symmetries change them."""
    batch = task.batch(6, seed=3)
    batches = [batch, task.augment(batch, seed=4)]
    return [(p, a) for b in batches for p, a in zip(b["inputs"].tolist(), b["labels"].tolist(), strict=True)]


def units(size: int) -> list[list[int]]:
    height, width = BOXES[size]
    rows = [[row * size + column for column in range(size)] for row in range(size)]
    columns = [list(line) for line in zip(*rows, strict=True)]
    corners = itertools.product(range(0, size, height), range(0, size, width))
    boxes = [[(top + r) * size + left + c for r in range(height) for c in range(width)] for top, left in corners]
    return rows + columns + boxes


@pytest.mark.parametrize("task", SUDOKUS, ids=repr)
def test_sudoku_answers_hold_every_digit_once_per_unit_and_keep_the_givens(task: Sudoku) -> None:
    digits = list(range(1, task.size + 1))
    for puzzle, answer in augmented(task):
        assert all(sorted(answer[cell] for cell in unit) == digits for unit in units(task.size))
        assert all(given in (0, digit) for given, digit in zip(puzzle, answer, strict=True))
        assert sum(given > 0 for given in puzzle) == task.given_count


@pytest.mark.parametrize("task", SUDOKUS, ids=repr)
def test_sudoku_has_exactly_one_solution(task: Sudoku) -> None:
    for puzzle, answer in augmented(task):
        assert solve(puzzle, task.size, limit=2) == [answer]


def test_solver_agrees_with_counting_every_filling() -> None:
    puzzle = [1, 2, 3, 4, 3, 4, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    fillings = itertools.product(itertools.permutations(range(1, 5)), repeat=2)
    grids = [puzzle[:8] + list(top) + list(bottom) for top, bottom in fillings]
    valid = [grid for grid in grids if all(len({grid[cell] for cell in unit}) == 4 for unit in units(4))]
    assert sorted(solve(puzzle, 4, limit=99)) == sorted(valid)


def test_solver_leaves_out_solutions_with_the_forbidden_digit() -> None:
    batch = Sudoku(4, givens=6).batch(1, seed=0)
    puzzle, answer = batch["inputs"][0].tolist(), batch["labels"][0].tolist()
    cell = puzzle.index(0)
    assert solve(puzzle, 4, forbidden=(cell, answer[cell])) == []
    assert solve(puzzle, 4, forbidden=(cell, answer[cell] % 4 + 1)) == [answer]


def distances(grid: list[int], start: int, size: int) -> dict[int, int]:
    found, queue = {start: 0}, deque([start])
    while queue:
        cell = queue.popleft()
        row, column = divmod(cell, size)
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            step = r * size + c
            if 0 <= r < size and 0 <= c < size and grid[step] != WALL and step not in found:
                found[step] = found[cell] + 1
                queue.append(step)
    return found


@pytest.mark.parametrize("task", MAZES, ids=repr)
def test_maze_answer_is_the_only_shortest_path(task: Maze) -> None:
    """A cell lies on a shortest path when its distances to both ends sum to the whole: one cell per distance."""
    for puzzle, answer in augmented(task):
        start, goal = puzzle.index(START), puzzle.index(GOAL)
        ahead, back = distances(puzzle, start, task.size), distances(puzzle, goal, task.size)
        length = ahead[goal]
        on_the_way = {cell for cell in ahead if ahead[cell] + back[cell] == length}
        assert len(on_the_way) == length + 1
        assert {cell for cell, token in enumerate(answer) if token in (START, PATH, GOAL)} == on_the_way
        assert [OPEN if token == PATH else token for token in answer] == puzzle


@pytest.mark.parametrize("task", MAZES, ids=repr)
def test_maze_paths_have_the_length_that_was_asked_for(task: Maze) -> None:
    lengths = [answer.count(PATH) + 1 for _, answer in augmented(task)]
    assert min(lengths) >= task.min_path
    assert max(lengths) <= (task.max_path or task.seq_len)


def test_openings_give_a_maze_cycles() -> None:
    """A tree has one open cell more than it has pairs of open neighbours."""

    def cycles(puzzle: list[int], size: int) -> int:
        cells = [cell for cell, token in enumerate(puzzle) if token != WALL]
        right = sum(cell % size < size - 1 and puzzle[cell + 1] != WALL for cell in cells)
        down = sum(cell + size < len(puzzle) and puzzle[cell + size] != WALL for cell in cells)
        return right + down - len(cells) + 1

    assert {cycles(puzzle, 7) for puzzle in Maze(7).batch(5, seed=0)["inputs"].tolist()} == {0}
    assert {cycles(puzzle, 7) for puzzle in Maze(7, openings=2).batch(5, seed=0)["inputs"].tolist()} == {2}


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_batches_have_the_promised_shapes_and_tokens(task: Task) -> None:
    batch = task.batch(4, seed=0)
    assert batch["inputs"].shape == batch["labels"].shape == (4, task.seq_len)
    assert batch["puzzle_identifiers"].tolist() == [0] * 4
    assert {value.dtype for value in batch.values()} == {torch.int64}
    assert int(batch["inputs"].min()) >= 0
    assert int(batch["labels"].max()) < task.vocab_size


@pytest.mark.parametrize("task", TASKS, ids=repr)
def test_the_seed_decides_the_puzzles_and_longer_batches_start_with_shorter_ones(task: Task) -> None:
    long, short, other = task.batch(6, seed=5), task.batch(3, seed=5), task.batch(3, seed=6)
    assert torch.equal(long["inputs"][:3], short["inputs"])
    assert torch.equal(task.augment(long, seed=1)["labels"], task.augment(long, seed=1)["labels"])
    assert not torch.equal(short["inputs"], other["inputs"])


@pytest.mark.parametrize("task", [Sudoku(4, givens=6), Maze(7)], ids=repr)
def test_train_and_test_never_meet(task: Task) -> None:
    """Small enough tasks that without the split hundreds of puzzles would."""
    train, test = task.batch(400, seed=0), task.batch(100, seed=1, split="test")
    for seed in range(3):
        assert not is_held_out(task.augment(train, seed)["inputs"].numpy()).any()
    assert not is_held_out(train["inputs"].numpy()).any()
    assert is_held_out(test["inputs"].numpy()).all()


def test_about_one_puzzle_in_eight_is_held_out() -> None:
    inputs = torch.randint(7, (8000, 36), generator=torch.Generator().manual_seed(0))
    assert abs(is_held_out(inputs.numpy()).mean() - 1 / 8) < 0.015


def test_augmentation_makes_new_puzzles() -> None:
    for task in (Sudoku(6), Maze(7)):
        batch = task.batch(20, seed=0)
        changed = (task.augment(batch, seed=1)["inputs"] != batch["inputs"]).any(dim=1)
        assert int(changed.sum()) > 10


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Sudoku(5), "Sudoku.size"),
        (lambda: Sudoku(6, givens=4), "Sudoku.givens"),
        (lambda: Maze(8), "Maze.size"),
        (lambda: Maze(5), "Maze.size"),
        (lambda: Maze(7, openings=-1), "Maze.openings"),
        (lambda: Maze(7, min_path=40), "Maze.min_path"),
        (lambda: Maze(7, min_path=6, max_path=4), "Maze.max_path"),
        (lambda: Sudoku(4).batch(0, seed=0), "batch"),
        (lambda: Sudoku(4).batch(1, seed=0, split="valid"), "batch"),
    ],
)
def test_options_that_no_puzzle_meets_are_refused(make: object, names: str) -> None:
    assert callable(make)
    with pytest.raises(OptionError, match=names):
        make()
