"""Recursive models written here, the puzzles they learn, their trainer, and two trained ones."""

from laser_fx.zoo.checkpoints import held_out, load, models, steps, task
from laser_fx.zoo.trm import TRM, Solve, TRMConfig

__all__ = ["TRM", "Solve", "TRMConfig", "held_out", "load", "models", "steps", "task"]
