"""What a file that leaves its loop early may answer: what its program does, ended at the step that the file says.

That step is the first at which the program's own head says that all is done; or, where a logit is as near to the
threshold as rounding, one at which it may have said so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from laser_fx.errors import VerificationError
from laser_fx.export.metadata import FileMetadata, Halt
from laser_fx.export.trajectory import Trajectory

__all__ = ["AT_ONCE", "NOT_AT_ALL", "HaltingAnswers", "as_array", "same_steps"]

AT_ONCE, NOT_AT_ALL = float("-inf"), float("inf")
"""Logits above which an example is done after the first step, and never."""

_MOST_THRESHOLDS = 64
_FIX = "export without halt, or report the model: the file halts otherwise than the model says"

Array = npt.NDArray[Any]


class HaltingAnswers:
    """A program's answers after every step, and which of them a file may give.

    Args:
        module: the rolled program.
        arguments: what its placeholders stand for.
        metadata: of the file.
        trips: steps at most; ``None`` for as many as were traced.
        above: the logit above which an example is done.
    """

    def __init__(
        self, module: fx.GraphModule, arguments: Sequence[Any], metadata: FileMetadata, trips: int | None, above: float
    ) -> None:
        assert metadata.halt is not None
        self.halt, self.above, self.metadata = metadata.halt, above, metadata
        loop = next(loop["name"] for loop in metadata.loops if loop["level"] == 0)
        self._trajectory = Trajectory(module, arguments, loop, trips)
        self._answers: dict[int, dict[str, Array]] = {}
        logits = dict(metadata.outputs)[self.halt.output]
        steps = range(self.halt.least, self._trajectory.steps + 1)
        known = [np.asarray(self._after(step)[logits], np.float64) for step in steps]
        unknown = [np.full_like(known[0], np.nan)] * (self.halt.least - 1)
        self.logits = np.stack([*unknown, *known])
        """(steps, batch) float64; NaN for steps after which an output would be missing."""

    def own(self) -> dict[str, Array]:
        """What the program answers, halting by its own logits."""
        return self.at(first_done(self.logits, self.halt, self.above))

    def at(self, steps: Array) -> dict[str, Array]:
        """What it answers when it halts after so many steps: 0-d, or (batch,).

        Raises:
            VerificationError: there are no such steps.
        """
        least, most = self.halt.least, len(self.logits)
        if steps.size == 0 or not least <= steps.min() <= steps.max() <= most:
            what = f"the steps taken are {steps.tolist()}, not from {least} to {most}"
            raise VerificationError(what, where=self.halt.steps, fix=_FIX)
        if not steps.ndim:
            return {**self._after(int(steps)), self.halt.steps: steps}
        known = {step: self._after(step) for step in sorted({int(step) for step in steps})}
        names = next(iter(known.values()))
        return {**{name: _rows(known, name, steps) for name in names}, self.halt.steps: steps}

    def check(self, steps: Array, margin: float, where: str) -> None:
        """Refuse steps at which the program does not halt.

        Args:
            steps: taken by the file.
            margin: a logit that is as near to the threshold may have been on the other side.
            where: words for the error.

        Raises:
            VerificationError: naming the first row, its step and its logits.
        """
        logits = self.logits if steps.ndim else self.logits.min(1, keepdims=True)
        for row, taken in enumerate(np.atleast_1d(steps)):
            before, last = logits[self.halt.least - 1 : taken - 1, row], logits[taken - 1, row]
            too_late = bool((before > self.above + margin).any())
            too_early = taken < len(logits) and not last > self.above - margin
            if too_late or too_early:
                raise VerificationError(
                    f"example {row} halts after step {taken}, where its logits by step are "
                    f"{[float(f'{v:.4g}') for v in logits[:, row]][:32]} and {self.above:g} decides",
                    where=where,
                    fix=_FIX,
                )

    def parting(self, margin: float) -> float | None:
        """A threshold at which examples halt after different steps, or between the first and the last one.

        ``None`` where the logits never differ by more than rounding.
        """
        values = np.unique(self.logits[np.isfinite(self.logits)])
        gaps = np.diff(values)
        between = (values[:-1] + gaps / 2)[gaps > 4 * margin]
        spread = np.linspace(0, len(between) - 1, min(len(between), _MOST_THRESHOLDS)).astype(int)
        candidates = [float(above) for above in between[spread].astype(np.float32)]
        most, above = max(((self._parted(above), above) for above in candidates), default=(1, 0.0))
        return above if most > 1 else None

    def _parted(self, above: float) -> int:
        """How many different steps there are; per batch 2 where it is neither the first nor the last, else 1."""
        steps = first_done(self.logits, self.halt, above)
        return len(np.unique(steps)) if steps.ndim else 1 + int(self.halt.least < int(steps) < len(self.logits))

    def _after(self, steps: int) -> dict[str, Array]:
        if steps not in self._answers:
            names = [value for _, value in (*self.metadata.outputs, *self.metadata.records)]
            results = self._trajectory.after(steps)
            self._answers[steps] = {name: as_array(result) for name, result in zip(names, results, strict=False)}
        return self._answers[steps]


def first_done(logits: Array, halt: Halt, above: float) -> Array:
    """The first steps at which all, or each, are done: int64, 0-d or (batch,). The last one where that is never.

    >>> logits = np.array([[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
    >>> first_done(logits, Halt("q", "example", "halt_above", 0.0, "steps", 1), 0.0).tolist()
    [2, 1]
    >>> first_done(logits, Halt("q", "batch", "halt_above", 0.0, "steps", 1), 0.0).tolist()
    3
    """
    done: Array = np.asarray(logits > above)
    if halt.per == "batch":
        done = np.asarray(done.all(1, keepdims=True))
    done[: halt.least - 1] = False
    done[-1] = True
    steps: Array = (done.argmax(0) + 1).astype(np.int64)
    return steps if halt.per == "example" else steps.reshape(())


def same_steps(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    metadata: FileMetadata,
    above: float,
    share: float,
    where: str,
) -> bool:
    """Whether two runs of a file took the same steps; false where a logit at the very threshold excuses them.

    Args:
        expected: outputs by value name.
        actual: the same of another run.
        metadata: of the file.
        above: the logit above which an example was done.
        share: of the largest logit, how far logits may differ.
        where: words for the error.

    Raises:
        VerificationError: they halt after different steps, and no logit was near the threshold.
    """
    halt = metadata.halt
    if halt is None or np.array_equal(expected[halt.steps], actual[halt.steps]):
        return True
    name = dict(metadata.outputs)[halt.output]
    earlier = actual[halt.steps] < expected[halt.steps]
    differs = np.broadcast_to(actual[halt.steps] != expected[halt.steps], expected[name].shape)
    decided = np.where(earlier, actual[name], expected[name]).astype(np.float64)
    margin = share * max(float(np.abs(decided[np.isfinite(decided)]).max(initial=0.0)), 1.0)
    near = np.abs(decided - above) <= margin
    if expected[name].dtype != np.bool_ and (near[differs].all() if halt.per == "example" else near.any()):
        return False
    raise VerificationError(
        f"the file halts after {actual[halt.steps].tolist()} steps, not {expected[halt.steps].tolist()}",
        where=where,
        fix=_FIX,
    )


def _rows(known: Mapping[int, Mapping[str, Array]], name: str, steps: Array) -> Array:
    """Each row as of its own step; a value without rows is the same after every step."""
    some = next(iter(known.values()))[name]
    if some.shape[:1] != steps.shape:
        return some
    return np.stack([known[int(step)][name][row] for row, step in enumerate(steps)])


def as_array(value: Any) -> Array:
    """A tensor, or a list of them stacked, as numpy."""
    if isinstance(value, list | tuple):
        return np.stack([as_array(item) for item in value])
    array: Array = (value.float() if value.dtype == torch.bfloat16 else value).detach().cpu().numpy()
    return array
