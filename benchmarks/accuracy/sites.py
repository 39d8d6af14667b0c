"""What the bases of the LASER arms did in training, counted over all calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from laser_fx.loops import Step

__all__ = ["Tally", "total"]


@dataclass
class Tally:
    """Steps of a site and what they did. Ranks and fidelities are sums over the steps that used their basis.

    >>> tally = Tally()
    >>> tally.add([Step(0.99, 8, True, False, False), Step(0.5, 9, True, True, True)])
    >>> tally.rates()["reset"], tally.rates()["exact"], tally.rates()["rank"]
    (0.5, 0.5, 8.0)
    """

    steps: int = 0
    tracked: int = 0
    reset: int = 0
    exact: int = 0
    fidelity: float = 0.0
    rank: int = 0

    def add(self, steps: Iterable[Step]) -> None:
        """Count these steps too."""
        for step in steps:
            self.steps += 1
            self.tracked += step.tracked
            self.reset += step.reset
            self.exact += step.exact
            self.fidelity += 0.0 if step.exact else step.fidelity
            self.rank += 0 if step.exact else step.rank

    def rates(self) -> dict[str, float | int | None]:
        """Shares of steps, and means over the steps that used their basis, None where none did."""
        used = self.steps - self.exact
        shares = {name: getattr(self, name) / self.steps for name in ("tracked", "reset", "exact")}
        means = {"fidelity": self.fidelity / used, "rank": self.rank / used} if used else {}
        return {"steps": self.steps, **shares, "fidelity": None, "rank": None, **means}


def total(tallies: Iterable[Tally]) -> Tally:
    """All of them as one."""
    sums: dict[str, float] = defaultdict(float)
    for tally in tallies:
        for name, value in asdict(tally).items():
            sums[name] += value
    return Tally(**sums)  # type: ignore[arg-type]
