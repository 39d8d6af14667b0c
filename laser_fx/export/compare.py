"""Compares what a file answers with what its program does: shapes, decisions at sites, values.

A step at a site decides (track, reset, exact) by a comparison with the threshold. Two runs may decide differently only
where the fidelity is as near to the threshold as rounding: from there on they are different computations, and their
values are not compared. How far values may differ says `laser_fx.export.tolerances`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from laser_fx import ops
from laser_fx.errors import VerificationError
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.sensitivity import CHAOS
from laser_fx.export.tolerances import FLOAT32, Tolerance

__all__ = ["Twins", "compare", "cost", "same_decisions", "scale_of", "usual"]

_SHARE = 0.5
_ROUNDINGS = 2
_LEAST_SCALE = 1e-2  # an output of smaller values is what rounding leaves of larger ones
_FIX = "export with form='unrolled', or report the model: the file was not written"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Twins:
    """The same outputs by another way, to know what an approximation costs the program itself.

    Args:
        exact: without its bases: the file may differ from the program by half of what the program differs from these,
            since a chaotic model magnifies rounding as it magnifies the approximation.
        finer: in float32, of a program of 16 bits: the file may differ by twice of what the program differs from these,
            since both are so far from the truth.
        nudged: what numbers that are off by a few roundings make of each output, relative to its largest value, or as
            the share of whole numbers that change: the file may differ by twice of that.
        turned: whether they turn a decision at a site: another computation from there on, as a right file may be.
    """

    exact: Mapping[str, Array] | None = None
    finer: Mapping[str, Array] | None = None
    nudged: Mapping[str, float] = field(default_factory=dict)
    turned: bool = False

    def by_rounding(self, nudged: Mapping[str, Array], own: Mapping[str, Array], metadata: FileMetadata) -> Twins:
        """These, and what numbers that are off by a few roundings make of a computation's own answers.

        Args:
            nudged: outputs by value name, of the computation with such numbers.
            own: the same as it is.
            metadata: of the file.
        """
        same = {name: value for name, value in own.items() if nudged[name].shape == value.shape}
        turned = any(v not in same or _decisions(nudged[v]) != _decisions(own[v]) for _, v in metadata.records)
        effects = {name: _effect(nudged[name], value) for name, value in same.items()}
        return replace(self, nudged=effects, turned=turned and metadata.fidelity is not None)

    def costs(self, name: str, value: Array) -> Iterator[float]:
        """What they excuse of an output, relative to its largest value."""
        if self.exact is not None:
            yield _SHARE * cost(value, self.exact[name])
        if self.finer is not None:
            yield _ROUNDINGS * cost(value, self.finer[name])
        yield self.rounding(name)

    def rounding(self, name: str) -> float:
        """What rounding alone excuses of it: infinity where it makes another answer."""
        excused = _ROUNDINGS * self.nudged.get(name, 0.0)
        return excused if excused <= CHAOS else np.inf

    def chaotic(self, names: Iterable[str]) -> bool:
        """Whether rounding makes another answer of any of these outputs."""
        return any(np.isinf(self.rounding(name)) for name in names)


def compare(
    expected: Mapping[str, Array],
    actual: Mapping[str, Array],
    metadata: FileMetadata,
    threshold: float,
    *,
    where: str,
    tolerance: Tolerance = FLOAT32,
    twins: Twins | None = None,
) -> float | None:
    """Largest relative error, or ``None`` where an excused decision, or chaos, makes values incomparable.

    Args:
        expected: outputs by value name, as the program computes them.
        actual: the same, as the file does.
        threshold: the fidelity that decisions compare with.
        where: words for the error.
        tolerance: what rounding excuses.
        twins: what else excuses a difference.

    Raises:
        VerificationError: values differ, or decisions that are not at the threshold.
    """
    for name, value in expected.items():
        if value.shape != actual[name].shape:
            raise VerificationError(
                f"{name!r} has shape {actual[name].shape}, not {value.shape}", where=where, fix=_FIX
            )
    twins = twins or Twins()
    agree = [
        same_decisions(
            expected[v], actual[v], threshold, f"{where}, site {key}", tolerance, turned_by_rounding=twins.turned
        )
        for key, v in metadata.records
    ]
    if not all(agree) and threshold < 1:
        return None
    # At 1 a step is exact in both, unless a full basis passed for exact: then it is as near as a basis is.
    is_exact = not metadata.fidelity or (all(agree) and threshold == 1)
    least = tolerance.exact if is_exact else tolerance.tracked
    named = metadata.outputs if metadata.fidelity else (*metadata.outputs, *metadata.records)
    costed = {v for _, v in metadata.outputs} | twins.nudged.keys()
    allowed = {v: max([least, *twins.costs(v, expected[v])]) for _, v in named if v in costed}
    whole = {v: max(tolerance.whole_numbers, twins.rounding(v)) for _, v in named}
    errors = [_error(n, expected[v], actual[v], allowed.get(v, least), whole[v], where) for n, v in named]
    return None if twins.chaotic(v for _, v in named) else max(errors, default=0.0)


def _decisions(record: Array) -> list[list[float]]:
    decisions: list[list[float]] = record.reshape(-1, 5)[:, ops.TRACKED :].tolist()
    return decisions


def _effect(nudged: Array, own: Array) -> float:
    if np.issubdtype(own.dtype, np.floating):
        return cost(nudged, own)
    return float((nudged != own).mean()) if own.size else 0.0


def cost(approximate: Array, exact: Array) -> float:
    """What an approximation changes, relative to the largest value; 0 for what is not floating."""
    if not np.issubdtype(exact.dtype, np.floating):
        return 0.0
    finite = np.isfinite(exact) & np.isfinite(approximate)
    difference = np.abs(approximate[finite].astype(np.float64) - exact[finite])
    return float(difference.max(initial=0.0)) / scale_of(approximate[finite])


def scale_of(values: Array) -> float:
    """The largest of some values, or what counts as the largest where they are what rounding leaves of larger ones."""
    return max(float(np.abs(values).max(initial=0.0)), _LEAST_SCALE)


def usual(metadata: FileMetadata, tolerance: Tolerance) -> float:
    """How far values of a file's runs may differ, relative to the largest."""
    return tolerance.exact if metadata.fidelity is None else tolerance.tracked


def same_decisions(
    expected: Array,
    actual: Array,
    threshold: float,
    where: str,
    tolerance: Tolerance = FLOAT32,
    *,
    turned_by_rounding: bool = False,
) -> bool:
    """Whether two records decide alike. An earlier step of this site that was excused excuses those after it.

    What a step measured before a reset is not in its record: where a nudge of all numbers turns a decision as well
    (``turned_by_rounding``), a file may turn one.

    Raises:
        VerificationError: they do not, and the fidelity was not at the threshold.
    """
    ours, theirs = expected.reshape(-1, 5), actual.reshape(-1, 5)
    differs = (ours[:, ops.TRACKED :] != theirs[:, ops.TRACKED :]).any(1).nonzero()[0]
    if not differs.size:
        return True
    step = int(differs[0])
    if turned_by_rounding or (step and _left_to_chance(ours[step - 1], ours[step], theirs[step])):
        return False
    margin = tolerance.later_margin if step else tolerance.first_margin
    fidelities = (float(ours[step, ops.FIDELITY]), float(theirs[step, ops.FIDELITY]))
    if min(abs(value - threshold) for value in fidelities) < margin:
        return False
    raise VerificationError(
        f"step {step} decided {theirs[step].tolist()}, the program {ours[step].tolist()}", where=where, fix=_FIX
    )


def _left_to_chance(before: Array, ours: Array, theirs: Array) -> bool:
    """Whether both tracked, one of them in vain, from a basis whose other directions were rounding.

    A step that needs more directions than the one before starts with some that held no energy there: what they are is
    chance, and so is whether one power iteration from them is enough.
    """
    both_tracked = bool(ours[ops.TRACKED] and theirs[ops.TRACKED])
    return both_tracked and max(ours[ops.RANK], theirs[ops.RANK]) > before[ops.RANK]


def _error(name: str, expected: Array, actual: Array, allowed: float, whole_numbers: float, where: str) -> float:
    if not np.issubdtype(expected.dtype, np.floating):
        different = int((expected != actual).sum())
        if different > np.ceil(min(whole_numbers, 1.0) * expected.size):
            raise VerificationError(f"{name!r} differs in {different} entries", where=where, fix=_FIX)
        return 0.0
    finite = np.isfinite(expected)
    same = np.array_equal(finite, np.isfinite(actual))
    difference = np.abs(expected[finite].astype(np.float64) - actual[finite]) if same else np.array([np.inf])
    error = float(difference.max(initial=0.0)) / scale_of(expected[finite])
    if not error <= allowed:
        raise VerificationError(
            f"{name!r} differs by {error:.1e} of its largest value, more than {allowed:.0e}", where=where, fix=_FIX
        )
    return error
