"""Puzzles that the models of the zoo learn: seeded, with one right answer each, train and test apart."""

from laser_fx.zoo.tasks.base import Batch, Split, Task, is_held_out
from laser_fx.zoo.tasks.maze import Maze
from laser_fx.zoo.tasks.sudoku import Sudoku

__all__ = ["Batch", "Maze", "Split", "Sudoku", "Task", "is_held_out"]
