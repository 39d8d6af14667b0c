"""What every task offers, and the split that keeps held-out puzzles out of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from laser_fx.errors import OptionError

__all__ = ["Batch", "Grids", "Split", "Task", "augmented", "collect", "is_held_out", "to_batch"]

Batch = dict[str, Tensor]
Grids = npt.NDArray[np.int64]
Split = Literal["train", "test"]

_HELD_OUT_SHARE = 8


class Task(Protocol):
    """A source of puzzles of one kind: token sequences of one length, and the answer to each."""

    @property
    def seq_len(self) -> int:
        """Tokens of one puzzle."""

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""

    def batch(self, count: int, seed: int, split: Split = "train") -> Batch:
        """``count`` puzzles: ``inputs`` and ``labels`` (count, seq_len) int64, ``puzzle_identifiers`` (count,) zeros.

        The same seed gives the same puzzles, and a longer batch starts with the shorter one.
        """

    def augment(self, batch: Batch, seed: int) -> Batch:
        """The batch with every puzzle replaced by one that its symmetries make of it, never a held-out one."""


def is_held_out(inputs: Grids) -> npt.NDArray[np.bool_]:
    """Which rows of ``inputs`` (count, seq_len) belong to the test split: one in eight, by a hash of the puzzle.

    Since the puzzle itself decides, no generator, seed or augmentation can carry one from test to train.
    """
    state = np.full(len(inputs), 0xCBF29CE484222325, dtype=np.uint64)
    for column in inputs.T.astype(np.uint64):
        state = (state ^ column) * np.uint64(0x100000001B3)
    # The low bits of this product see only the low bits of the tokens; the high ones see all.
    held_out: npt.NDArray[np.bool_] = (state >> np.uint64(40)) % np.uint64(_HELD_OUT_SHARE) == 0
    return held_out


def collect(draw: Callable[[], tuple[Grids, Grids]], count: int, split: Split) -> Batch:
    """Draw (puzzle, answer) until ``count`` of them belong to `split`.

    Raises:
        OptionError: a count below 1 or an unknown split.
    """
    if count < 1:
        raise OptionError(f"count is {count}", where="batch", fix="choose a whole number of at least 1")
    if split not in get_args(Split):
        raise OptionError(f"split is {split!r}", where="batch", fix="choose 'train' or 'test'")
    puzzles: list[Grids] = []
    answers: list[Grids] = []
    while len(puzzles) < count:
        puzzle, answer = draw()
        if is_held_out(puzzle[None])[0] == (split == "test"):
            puzzles.append(puzzle)
            answers.append(answer)
    return to_batch(np.stack(puzzles), np.stack(answers))


def to_batch(inputs: Grids, labels: Grids) -> Batch:
    """The batch of tensors of ``inputs`` and ``labels``, both (count, seq_len)."""
    identifiers = torch.zeros(len(inputs), dtype=torch.int64)
    return {
        "inputs": torch.from_numpy(inputs),
        "labels": torch.from_numpy(labels),
        "puzzle_identifiers": identifiers,
    }


def augmented(batch: Batch, transform: Callable[[Grids, Grids], tuple[Grids, Grids]]) -> Batch:
    """`transform` on inputs and labels, keeping the original row wherever the new one is held out."""
    inputs, labels = batch["inputs"].numpy(), batch["labels"].numpy()
    new_inputs, new_labels = transform(inputs, labels)
    keep = is_held_out(new_inputs)[:, None]
    return to_batch(np.where(keep, inputs, new_inputs), np.where(keep, labels, new_labels))
