"""What a benchmark found. Data."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from laser_fx.reporting.plain import plain

__all__ = ["SCHEMA", "ArmResult", "BenchResult"]

SCHEMA = 1
"""Version of what `BenchResult.to_dict` returns."""


@dataclass(frozen=True)
class ArmResult:
    """One way of running the model.

    Args:
        name: of `laser_fx.bench.ARMS`.
        about: what it does, in words.
        seconds: of one call, by round; empty where it could not be run.
        prepare_seconds: what it took to get ready: capture, compile, export, the first call.
        saved_bytes: what a training call holds for backward; None where not measured.
        error: largest difference from eager's answer, over the largest value of that output; None where not compared.
        failed: why it could not be run; None where it was.

    >>> arm = ArmResult("eager", "the model as it is", (0.04, 0.02, 0.03))
    >>> arm.median, arm.spread
    (0.03, (0.02, 0.04))
    """

    name: str
    about: str
    seconds: tuple[float, ...] = ()
    prepare_seconds: float = 0.0
    saved_bytes: int | None = None
    error: float | None = None
    failed: str | None = None

    @property
    def median(self) -> float | None:
        """Seconds of one call, the median of the rounds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Seconds of one call in the fastest and in the slowest round."""
        return (min(self.seconds), max(self.seconds)) if self.seconds else None


@dataclass(frozen=True)
class BenchResult:
    """All of them, in one process, their rounds taking turns.

    Args:
        model: name of the model's class.
        inputs: dtype and sizes of every tensor that it was called with.
        calls: calls of an arm in one round; a round's seconds are their mean.
        arms: eager first.
        environment: versions and machine.
    """

    model: str
    inputs: tuple[str, ...]
    calls: int
    arms: tuple[ArmResult, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def ratio(self, arm: ArmResult) -> float | None:
        """Time of an arm over eager's of the same round, the median: what both of them had to wait for counts twice.

        >>> eager, other = ArmResult("eager", "", (1.0, 4.0, 1.0)), ArmResult("other", "", (0.5, 2.0, 0.5))
        >>> BenchResult("Tiny", (), 1, (eager, other)).ratio(other)
        0.5
        """
        eager = self.arms[0]
        if not arm.seconds or not eager.seconds:
            return None
        return statistics.median(own / theirs for own, theirs in zip(arm.seconds, eager.seconds, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all samples, and medians and ratios with them."""
        arms = [
            {**dataclasses.asdict(arm), "seconds": list(arm.seconds), "median": arm.median, "ratio": self.ratio(arm)}
            for arm in self.arms
        ]
        found = {
            "schema": SCHEMA,
            "model": self.model,
            "inputs": list(self.inputs),
            "calls": self.calls,
            "environment": dict(self.environment),
            "arms": arms,
        }
        return cast(dict[str, Any], plain(found))
