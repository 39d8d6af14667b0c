"""Bases that were found on data, for inference: what a site computes through, and what that costs and keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from laser_fx.errors import InputError
from laser_fx.files import replacing

__all__ = ["Calibration", "CarryStep", "Objective", "RankShare", "SiteBasis", "Trial", "check_schedule"]

Objective = Literal["activation", "output", "answer"]
RankShare = float | Literal["exact"]
"""The share of its calibrated rank, in (0, 1], that a step has, or no basis at all."""
_KEY = "laser_fx.calibration"
_VERSION = 2
"""Version 1 has no schedules, no bases by step, none for the answer, and no trajectory."""
_DUAL, _PROBES = "|dual", "|probes"


@dataclass(frozen=True, eq=False)
class SiteBasis:
    """The basis of one site.

    Args:
        objective: ``"activation"`` keeps X (N, D), ``"output"`` keeps ``Y = XWᵀ`` (N, F), ``"answer"`` what the model's
            answer depends on of Y: its error is weighed by the gradients that calibration saw.
        basis: orthonormal columns, float32: (D, k) or (F, k). Or one for each step: the trips of the loops around the
            site stand in front then, outermost first. A step's position is its place among all steps of a call; a call
            whose outermost loop runs longer uses the bases of the last outermost step from there on. For ``"answer"``
            S of ``Y ≈ (YS)Uᵀ``, with ``SᵀU = I`` in place of orthonormal columns.
        dual: U, for ``"answer"`` alone; shaped as ``basis``.
        probes: (…, F, r) float32, for ``"answer"`` alone: random directions, weighed as the error is, that the error of
            a step is estimated by.
    """

    objective: Objective
    basis: Tensor
    dual: Tensor | None = None
    probes: Tensor | None = None

    @property
    def rank(self) -> int:
        """k."""
        return int(self.basis.shape[-1])

    @property
    def is_per_step(self) -> bool:
        """Whether each step has a basis of its own."""
        return self.basis.ndim > 2

    def at_trips(self, trips: Sequence[int]) -> SiteBasis:
        """The basis for loops that run so often, outermost first.

        Raises:
            ValueError: a loop inside of the outermost one runs another number of times.

        >>> import torch
        >>> SiteBasis("output", torch.zeros(2, 3, 8, 4)).at_trips((5, 3)).basis.shape
        torch.Size([5, 3, 8, 4])
        """
        if not self.is_per_step:
            return self
        known = tuple(self.basis.shape[:-2])
        if len(known) != len(trips) or known[1:] != tuple(trips[1:]):
            raise ValueError(f"it is for loops of {_times(known)} steps, these run {_times(trips)}")
        if known[0] == trips[0]:
            return self
        return self.at_steps(torch.arange(trips[0]).clamp(max=known[0] - 1))

    def at_steps(self, steps: Tensor | slice) -> SiteBasis:
        """The bases of some outermost steps, for a basis by step."""
        dual, probes = (None if value is None else value[steps] for value in (self.dual, self.probes))
        return replace(self, basis=self.basis[steps], dual=dual, probes=probes)

    def of_rank(self, rank: int) -> SiteBasis:
        """The leading columns alone."""
        dual = None if self.dual is None else self.dual[..., :rank].contiguous()
        return replace(self, basis=self.basis[..., :rank].contiguous(), dual=dual)

    def error(self) -> float:
        """How far the columns are from orthonormal, or from dual to each other: the largest entry of the difference."""
        other = self.basis if self.dual is None else self.dual
        gram = self.basis.mT @ other
        return float((gram - torch.eye(self.rank).to(gram)).abs().amax())


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Args:
        objective: of all sites, ``"mixed"`` where each has its own; with ``per step`` and the schedule, if there are.
        energy: share of each site's energy that its rank keeps; None where sites differ.
        flops_share: floating-point operations of all linears at sites, of the exact ones.
        kept: share of the examples whose predictions count as kept.
        examples: what they are: those that are ``"searched"``, or those that settings are ``"selected"`` by.
    """

    objective: str
    energy: float | None
    flops_share: float
    kept: float
    examples: str = "searched"


@dataclass(frozen=True)
class CarryStep:
    """The state of the outermost loop after a step, against the one in full precision.

    Args:
        cosine: between the two.
        error: ``‖found − exact‖ / ‖exact‖``.
    """

    cosine: float
    error: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Frozen bases for the sites of a model.

    Args:
        bases: site → basis; sites that are not named stay exact.
        target: ``"agreement"`` or ``"accuracy"``.
        flops_share: operations of the linears at sites, of the exact ones.
        kept: share of the held-out examples whose predictions are kept.
        exact: what the exact model keeps of them: 1.0 for agreement.
        interval: 95 % interval of ``kept``, by Wilson.
        held_out: how many examples that is.
        trials: what was tried, in order, on the other examples.
        carry: what the outermost loops carry after each step on held-out examples, against full precision.
        rank_schedule: share of the rank by step of the outermost loop, counted from the last one; the first entry holds
            for all earlier steps. None where every step has the whole rank.
    """

    bases: Mapping[str, SiteBasis]
    target: str
    flops_share: float
    kept: float
    exact: float
    interval: tuple[float, float]
    held_out: int
    trials: tuple[Trial, ...]
    rank_schedule: tuple[RankShare, ...] | None = None
    carry: tuple[CarryStep, ...] = ()

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write it as one safetensors file.

        Raises:
            OutputPathError: the file cannot be written.
        """
        about = {
            name: getattr(self, name) for name in ("target", "flops_share", "kept", "exact", "interval", "held_out")
        }
        about |= {"version": _VERSION, "trials": [asdict(trial) for trial in self.trials]}
        about |= {"rank_schedule": self.rank_schedule, "carry": [asdict(step) for step in self.carry]}
        about["objectives"] = {key: found.objective for key, found in self.bases.items()}
        tensors = {
            f"{key}{part}": value.contiguous()
            for key, found in self.bases.items()
            for part, value in (("", found.basis), (_DUAL, found.dual), (_PROBES, found.probes))
            if value is not None
        }
        with replacing(Path(path), overwrite=overwrite) as beside:
            beside.write_bytes(save(tensors, metadata={_KEY: json.dumps(about)}))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing, damaged, of a newer version, or holds something else.
        """
        try:
            with safe_open(Path(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})[_KEY])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
            return cls._of(about, tensors)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            fix = "give a file that Calibration.save wrote with this version of laser-fx or an older one"
            raise InputError(f"no calibration can be read: {error}", where=str(path), fix=fix) from error

    @classmethod
    def _of(cls, about: dict[str, Any], tensors: Mapping[str, Tensor]) -> Calibration:
        if not isinstance(about, dict) or not isinstance(about["objectives"], dict):
            raise ValueError("it tells of no bases")
        if about.pop("version") > _VERSION:
            raise ValueError("it is of a newer version")
        trials = tuple(Trial(**trial) for trial in about.pop("trials"))
        objectives = about.pop("objectives")
        bases = {
            key: SiteBasis(_objective(objective), tensors[key], tensors.get(key + _DUAL), tensors.get(key + _PROBES))
            for key, objective in objectives.items()
        }
        for found in bases.values():
            _check_basis(found)
        low, high = about.pop("interval")
        for name in ("flops_share", "kept", "exact"):
            about[name] = float(about[name])
        if about["target"] not in ("agreement", "accuracy") or type(about["held_out"]) is not int:
            raise ValueError("it does not tell what it was measured on")
        schedule = about.pop("rank_schedule", None)
        wrong = None if schedule is None else check_schedule(tuple(schedule))
        if wrong is not None:
            raise ValueError(f"its schedule is none: {wrong}")
        carry = tuple(CarryStep(**step) for step in about.pop("carry", ()))
        return cls(
            bases=bases,
            trials=trials,
            interval=(float(low), float(high)),
            rank_schedule=None if schedule is None else tuple(schedule),
            carry=carry,
            **about,
        )

    def __repr__(self) -> str:
        ranks = ", ".join(f"{key}: {found.objective} {found.rank}" for key, found in self.bases.items())
        return f"Calibration({self.flops_share:.2f} of the FLOPs, {self.kept:.1%} kept; {ranks})"


def _check_basis(found: SiteBasis) -> None:
    """Refuse what is no matrix of numbers, and parts that do not go together."""
    parts = [found.basis, *(part for part in (found.dual, found.probes) if part is not None)]
    if not all(part.dtype is torch.float32 and part.ndim >= 2 and bool(part.isfinite().all()) for part in parts):
        raise ValueError("a basis is no matrix of finite numbers in float32")
    has_dual = found.dual is not None and found.probes is not None and found.dual.shape == found.basis.shape
    if has_dual is not (found.objective == "answer") or not 0 < found.rank <= found.basis.shape[-2]:
        raise ValueError("the parts of a basis do not go together")


def _objective(value: object) -> Objective:
    if value not in get_args(Objective):
        raise ValueError(f"{value!r} is no objective")
    return value  # type: ignore[return-value]


def _times(trips: Sequence[int]) -> str:
    return " × ".join(map(str, trips))


def check_schedule(schedule: object) -> str | None:
    """What is wrong with a schedule of ranks, None where it is one.

    >>> check_schedule((0.5, "exact")), check_schedule((0.5, 2.0))
    (None, '2.0 is no share in (0, 1], nor "exact"')
    """
    if not isinstance(schedule, tuple) or not schedule:
        return "it is no tuple with an entry"
    for share in schedule:
        is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if share != "exact" and not (is_number and 0.0 < share <= 1.0):
            return f'{share!r} is no share in (0, 1], nor "exact"'
    return None


def share_of(spectrum: Tensor, energy: float) -> int:
    """The least number of directions that hold this share of the energy; all where it is 1.

    >>> import torch
    >>> share_of(torch.tensor([6.0, 3.0, 1.0]), 0.85)
    2
    """
    wide = spectrum.double()
    if energy >= 1.0 or not wide.any():
        return len(wide)
    return int((wide.cumsum(0) < energy * wide.sum()).sum()) + 1
