"""Chooses what the segments of a training graph keep, under one budget for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from laser_fx.errors import OptionError
from laser_fx.memory.plan import Plan, PlanRow, rows_of
from laser_fx.memory.segment import Policy, Segment
from laser_fx.memory.values import Values, ancestors

__all__ = ["fit", "plan_of"]

_PRICES = -16.0, 16.0
"""Logarithms of prices: at the lowest nearly everything is made again, at the highest nothing that takes time."""
_STEP = 0.02
_TRIED = 24
"""Values of a segment that are tried one by one, once the price is found."""


@dataclass
class _Traced:
    segment: Segment
    values: Values

    def kept(self, policy: Policy) -> tuple[fx.Node, ...]:
        return policy.choose(self.values)

    def bytes(self, policy: Policy) -> int:
        return self.segment.times * self.values.total(self.kept(policy))

    @property
    def eager_bytes(self) -> int:
        return self.segment.times * self.values.total(self.values.kept_by_eager)


def fit(segments: Sequence[Segment], memory: Literal["lean"] | float) -> None:
    """Give the segments a policy. They ran once, so that they know the forms of their inputs.

    Args:
        memory: ``"lean"``: the least bytes without making a product again; a number: little time within this
            fraction of what eager keeps.

    Raises:
        OptionError: the fraction is below what exact plans reach.
    """
    if memory == "lean":
        return  # as they are made
    traced = _trace(segments)
    budget = int(memory * sum(part.eager_bytes for part in traced))
    policy = _within(traced, memory, budget)
    for segment in segments:
        segment.policy = policy
    _spend(traced, budget)


def plan_of(segments: Sequence[Segment]) -> Plan:
    """What the segments keep of the call that they ran last."""
    rows: list[PlanRow] = []
    before = after = 0
    for part in _trace(segments):
        kept = part.kept(part.segment.policy)
        rows.extend(rows_of(part.segment.name, part.segment.times, part.values, kept))
        before += part.eager_bytes
        after += part.segment.times * part.values.total(kept)
    return Plan(tuple(rows), before, after)


def _trace(segments: Sequence[Segment]) -> list[_Traced]:
    return [_Traced(s, s.values(s.latest)) for s in segments if s.latest is not None]


def _within(traced: Sequence[_Traced], fraction: float, budget: int) -> Policy:
    """The highest price of time, and so the least time, at which the segments stay within the budget."""
    best = Policy(0.0, products=True)
    minimum = _bytes(traced, best)
    if minimum > budget:
        least = minimum / sum(part.eager_bytes for part in traced)
        raise OptionError(
            f"memory is {fraction:g}, and exact plans keep at least {least:.4f} of what eager keeps",
            where="Options.memory",
            fix=f"choose at least {least + 1e-4:.4f}, or 'lean'",
        )
    low, high = _PRICES
    while high - low > _STEP:
        middle = (low + high) / 2
        policy = Policy(2.0**middle, products=True)
        if _bytes(traced, policy) <= budget:
            best, low = policy, middle
        else:
            high = middle
    return best


def _spend(traced: Sequence[_Traced], budget: int) -> None:
    """Use what is left of the budget: keep values that would be made again, the dearest first.

    Between two prices at which all choices are best there may be a wide gap in bytes.
    """
    used = {id(part): part.bytes(part.segment.policy) for part in traced}
    for part in traced:
        for name in _made_again(part):
            policy = part.segment.policy
            trial = replace(policy, pinned=policy.pinned | {name})
            size = part.bytes(trial)
            if sum(used.values()) - used[id(part)] + size <= budget:
                part.segment.policy, used[id(part)] = trial, size


def _made_again(part: _Traced) -> list[str]:
    kept = set(part.kept(part.segment.policy))
    again = ancestors(part.values.needed, kept) & part.values.forward
    dear = sorted(again, key=lambda node: (-part.values.time(node), node.name))
    return [node.name for node in dear if part.values.time(node)][:_TRIED]


def _bytes(traced: Sequence[_Traced], policy: Policy) -> int:
    return sum(part.bytes(policy) for part in traced)
