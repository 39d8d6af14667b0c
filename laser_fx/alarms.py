"""Warns of sites whose bases do not keep up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from laser_fx.events import tell
from laser_fx.loops import Step

__all__ = ["Alarms", "reset_rate"]


def reset_rate(steps: Sequence[Step]) -> float:
    """Share of the steps that made a fresh basis, without the first one, which has none to keep; 0 for one step.

    >>> kept, fresh = Step(1.0, 3, False, False, False), Step(0.99, 3, True, True, False)
    >>> reset_rate([fresh, fresh, kept])
    0.5
    """
    later = steps[1:]
    return sum(step.reset for step in later) / len(later) if later else 0.0


class Alarms:
    """Tells of each site once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def check(self, recorded: Mapping[str, Sequence[Step]], bound: float) -> None:
        """Warn of every site at which a larger share of steps than ``bound`` reset."""
        for site, steps in recorded.items():
            rate = reset_rate(steps)
            if rate > bound and site not in self._told:
                self._told.add(site)
                tell(
                    logging.WARNING,
                    "slow_basis",
                    "%s: %.0f %% of %d steps made a fresh basis; one that follows the loop does not keep up",
                    site,
                    100 * rate,
                    len(steps) - 1,
                    site=site,
                    reset_rate=rate,
                    steps=len(steps),
                )
