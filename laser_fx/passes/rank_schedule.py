"""Which rank each outermost step has, by a schedule that is counted from the last step.

The first entry holds for all earlier steps too, so that a schedule says the same at any depth: ``(0.5, 1.0, "exact")``
is the exact linear at the last step, the whole rank at the one before, and half of it at all earlier ones. Columns of a
basis come by descending energy, so a share of the rank is its leading columns.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from laser_fx.calibration import RankShare, SiteBasis
from laser_fx.loops import LoopNest
from laser_fx.passes.split_loops import Piece

__all__ = ["Schedule", "rank_at", "scheduled", "shares", "starts_of"]

Schedule = tuple[RankShare, ...]


def shares(schedule: Schedule, trips: int) -> Schedule:
    """One share for each of so many steps.

    >>> shares((0.5, 1.0, "exact"), 5)
    (0.5, 0.5, 0.5, 1.0, 'exact')
    >>> shares((0.5, 1.0, "exact"), 2)
    (1.0, 'exact')
    """
    return ((schedule[0],) * (trips - len(schedule)) + schedule)[-trips:]


def starts_of(nest: LoopNest, schedule: Schedule | None, held: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Outermost loop → first steps of the stretches with one share, for those around a loop of ``held``."""
    if schedule is None:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for loop in nest.loops:
        by_step = shares(schedule, loop.trip_count)
        starts = tuple(at for at, share in enumerate(by_step) if not at or share != by_step[at - 1])
        if len(starts) > 1 and any(inner.name in held for inner in loop.walk()):
            found[loop.name] = starts
    return found


def scheduled(basis: SiteBasis | None, schedule: Schedule | None, piece: Piece, trips: int) -> SiteBasis | None:
    """A site's basis in a piece of its outermost loop; None where it stays exact.

    Args:
        basis: of the whole loop.
        schedule: None where no step differs.
        piece: the steps that this is for.
        trips: of the whole outermost loop.
    """
    if basis is None:
        return None
    here = basis.at_steps(slice(piece.start, piece.stop)) if basis.is_per_step else basis
    share = 1.0 if schedule is None else shares(schedule, trips)[piece.start]
    if isinstance(share, str):
        return None
    return here.of_rank(rank_at(share, basis.rank))


def rank_at(share: float, rank: int) -> int:
    """Columns that a share of the rank has, at least one.

    >>> rank_at(0.5, 7)
    4
    """
    return max(1, math.ceil(share * rank - 1e-9))
