"""Chooses what the segments of a training graph keep, under one budget for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from laser_fx.memory.choose import Kept, Offers
from laser_fx.memory.policy import Policy, Priced
from laser_fx.memory.segment import Segment
from laser_fx.memory.values import Values, ancestors

__all__ = ["Part", "fit_budget", "fit_time", "highest_price", "lowest_price", "parts_of", "time_limit", "totals"]

_PRICES = -24.0, 16.0
"""Logarithms of prices: at the lowest nearly everything is made again, at the highest nothing that takes time."""
_STEP = 0.02
_TRIED = 24
"""Values of a segment that are tried one by one, once the price is found."""


@dataclass
class Part:
    """A segment with the joint graph of the call that it ran last."""

    segment: Segment
    values: Values
    _chosen: dict[int, tuple[Policy, Kept]] = field(default_factory=dict, init=False, repr=False)

    def follow(self, policy: Policy) -> None:
        """Let the segment keep what a policy chooses. What other ones choose may change once it runs: bases learn."""
        self._chosen.clear()
        self.segment.follow(policy, policy.choose(self.values))

    def kept(self, policy: Policy) -> Kept:
        """What a policy chooses; a search asks for the same choice again and again."""
        if id(policy) not in self._chosen:
            self._chosen[id(policy)] = policy, policy.choose(self.values)
        return self._chosen[id(policy)][1]

    def bytes(self, policy: Policy) -> int:
        return self.segment.times * self.values.total(self.kept(policy))

    def time(self, policy: Policy) -> int:
        return self.segment.times * self.values.planned_time(self.kept(policy))

    @property
    def is_in_loop(self) -> bool:
        """Whether it runs at every step of a loop."""
        return self.segment.times > 1

    @property
    def eager_bytes(self) -> int:
        return self.segment.times * self.values.total(dict.fromkeys(self.values.kept_by_eager))

    @property
    def eager_time(self) -> int:
        return self.segment.times * self.values.eager_time


def parts_of(segments: Sequence[Segment]) -> list[Part]:
    """The segments that ran; a call on tensors without data is enough."""
    return [Part(s, s.values(s.latest)) for s in segments if s.latest is not None]


def totals(parts: Sequence[Part], policies: Sequence[Policy]) -> int:
    """Bytes that the parts keep."""
    return sum(part.bytes(policy) for part, policy in zip(parts, policies, strict=True))


def fit_time(parts: Sequence[Part], overhead: float, elsewhere: int) -> list[Policy]:
    """The least bytes with which a step takes at most so much longer than in eager.

    Args:
        parts: of the call.
        overhead: 0.05 for a twentieth longer.
        elsewhere: nanoseconds of what is in no segment.
    """
    limit = time_limit(parts, overhead, elsewhere)
    return [Priced(lowest_price(parts, limit, [{}] * len(parts)))] * len(parts)


def time_limit(parts: Sequence[Part], overhead: float, elsewhere: int) -> float:
    """Nanoseconds that the parts may take together, see `fit_time`."""
    return elsewhere * overhead + (1 + overhead) * sum(part.eager_time for part in parts)


def fit_budget(parts: Sequence[Part], budget: int) -> list[Priced] | None:
    """Little time within so many bytes, exactly; None where they are too few."""
    price = highest_price(parts, budget, [{}] * len(parts))
    return None if price is None else _spend(parts, [Priced(price)] * len(parts), budget)


def highest_price(parts: Sequence[Part], budget: int, offers: Sequence[Offers]) -> float | None:
    """The highest price of time, and so the least time, at which the parts keep so many bytes; None if at no price.

    Args:
        parts: of the call.
        budget: bytes.
        offers: for each part, codecs that its values may be kept with besides exactly.
    """

    def is_within(price: float) -> bool:
        return totals(parts, [Priced(price, offers=offer) for offer in offers]) <= budget

    return _last(is_within) if is_within(0.0) else None


def lowest_price(parts: Sequence[Part], limit: float, offers: Sequence[Offers]) -> float:
    """The lowest price of time, and so the least bytes, at which the parts take so many nanoseconds."""

    def is_late(price: float) -> bool:
        policies = [Priced(price, offers=offer) for offer in offers]
        return sum(part.time(policy) for part, policy in zip(parts, policies, strict=True)) > limit

    return _first(is_late)


def _last(holds: Callable[[float], bool]) -> float:
    """The highest price up to which something holds, zero if for none but that."""
    return _bisect(holds)[0]


def _first(fails: Callable[[float], bool]) -> float:
    """The lowest price from which on something does not hold."""
    return 0.0 if not fails(0.0) else _bisect(fails)[1]


def _bisect(holds: Callable[[float], bool]) -> tuple[float, float]:
    """Two prices side by side, of which it holds at the first alone."""
    low, high = _PRICES
    least = 0.0
    while high - low > _STEP:
        middle = (low + high) / 2
        if holds(2.0**middle):
            low = middle
            least = 2.0**middle
        else:
            high = middle
    return least, 2.0**high


def _spend(parts: Sequence[Part], policies: list[Priced], budget: int) -> list[Priced]:
    """Use what is left of the budget: keep values that would be made again, the dearest first.

    Between two prices at which all choices are best there may be a wide gap in bytes.
    """
    used = [part.bytes(policy) for part, policy in zip(parts, policies, strict=True)]
    for place, part in enumerate(parts):
        for name in _made_again(part, policies[place]):
            trial = replace(policies[place], pinned=policies[place].pinned | {name})
            size = part.bytes(trial)
            if sum(used) - used[place] + size <= budget:
                policies[place], used[place] = trial, size
    return policies


def _made_again(part: Part, policy: Policy) -> list[str]:
    again = ancestors(part.values.needed, set(part.kept(policy))) & part.values.forward
    dear = sorted(again, key=lambda node: (-part.values.time(node), node.name))
    return [node.name for node in dear if part.values.time(node)][:_TRIED]
