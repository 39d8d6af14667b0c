"""Bases that were found on data, for inference: what a site computes through, and what that costs and keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from laser_fx.errors import InputError
from laser_fx.files import replacing

__all__ = ["Calibration", "Objective", "RankShare", "SiteBasis", "Trial", "check_schedule"]

Objective = Literal["activation", "output"]
RankShare = float | Literal["exact"]
"""The share of its calibrated rank, in (0, 1], that a step has, or no basis at all."""
_KEY = "laser_fx.calibration"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class SiteBasis:
    """The basis of one site.

    Args:
        objective: ``"activation"`` keeps X (N, D), ``"output"`` keeps ``XWᵀ`` (N, F).
        basis: orthonormal columns, float32: (D, k) or (F, k). Or one for each step: the trips of the loops around the
            site stand in front then, outermost first. A step's position is its place among all steps of a call; a call
            whose outermost loop runs longer uses the bases of the last outermost step from there on.
    """

    objective: Objective
    basis: Tensor

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
        return replace(self, basis=self.basis[torch.arange(trips[0]).clamp(max=known[0] - 1)])


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Args:
        objective: of all sites, ``"mixed"`` where each has its own.
        energy: share of each site's energy that its rank keeps; None where sites differ.
        flops_share: floating-point operations of all linears at sites, of the exact ones.
        kept: share of the calibration examples whose predictions count as kept.
    """

    objective: str
    energy: float | None
    flops_share: float
    kept: float


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

    def save(self, path: str | PathLike[str], *, overwrite: bool = False) -> None:
        """Write it as one safetensors file.

        Raises:
            OutputPathError: the file cannot be written.
        """
        about = {
            name: getattr(self, name) for name in ("target", "flops_share", "kept", "exact", "interval", "held_out")
        }
        about |= {"version": _VERSION, "trials": [asdict(trial) for trial in self.trials]}
        about["objectives"] = {key: found.objective for key, found in self.bases.items()}
        tensors = {key: found.basis.contiguous() for key, found in self.bases.items()}
        with replacing(Path(path), overwrite=overwrite) as beside:
            save_file(tensors, beside, metadata={_KEY: json.dumps(about)})

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
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            fix = "give a file that Calibration.save wrote with this version of laser-fx or an older one"
            raise InputError(f"no calibration can be read: {error}", where=str(path), fix=fix) from error

    @classmethod
    def _of(cls, about: dict[str, Any], tensors: Mapping[str, Tensor]) -> Calibration:
        if about.pop("version") > _VERSION:
            raise ValueError("it is of a newer version")
        trials = tuple(Trial(**trial) for trial in about.pop("trials"))
        objectives = about.pop("objectives")
        bases = {key: SiteBasis(objectives[key], basis) for key, basis in tensors.items()}
        low, high = about.pop("interval")
        return cls(bases=bases, trials=trials, interval=(float(low), float(high)), **about)

    def __repr__(self) -> str:
        ranks = ", ".join(f"{key}: {found.objective} {found.rank}" for key, found in self.bases.items())
        return f"Calibration({self.flops_share:.2f} of the FLOPs, {self.kept:.1%} kept; {ranks})"


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
