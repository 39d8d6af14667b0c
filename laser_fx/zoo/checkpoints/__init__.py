"""The trained models that come with the package: load one, and fetch puzzles that it has never seen."""

from __future__ import annotations

from pathlib import Path

from laser_fx.errors import OptionError
from laser_fx.zoo.recipes import RECIPES
from laser_fx.zoo.store import load_model
from laser_fx.zoo.tasks import Batch, Task
from laser_fx.zoo.trm import TRM

__all__ = ["held_out", "load", "models", "steps", "task"]

_FOLDER = Path(__file__).parent


def models() -> tuple[str, ...]:
    """Names of the trained models.

    >>> "sudoku" in models()
    True
    """
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def load(name: str) -> TRM:
    """The trained model `name`, in eval mode, on the CPU, in float32.

    Raises:
        OptionError: no model has this name.
        InputError: its file is damaged.

    >>> load("sudoku").config.seq_len
    36
    """
    return load_model(_path(name)).model


def steps(name: str) -> int:
    """Supervision steps at which the model `name` was measured: what `Solve` should be given.

    Raises:
        OptionError: no model has this name.
        InputError: its file is damaged.
    """
    return load_model(_path(name)).steps


def task(name: str) -> Task:
    """The task that the model `name` was trained for.

    Raises:
        OptionError: no model has this name.

    >>> task("sudoku").seq_len
    36
    """
    _path(name)
    return RECIPES[name].task


def held_out(name: str, count: int, seed: int = 0) -> Batch:
    """``count`` puzzles of the model's task that were kept out of its training.

    Returns:
        ``inputs`` and ``labels`` (count, seq_len) int64, and ``puzzle_identifiers`` (count,) int64.

    Raises:
        OptionError: no model has this name, or ``count`` is below 1.
    """
    return task(name).batch(count, seed, split="test")


def _path(name: str) -> Path:
    known = models()
    if name not in known:
        raise OptionError(f"no model is named {name!r}", where="laser_fx.zoo", fix="choose from " + ", ".join(known))
    return _FOLDER / f"{name}.safetensors"
