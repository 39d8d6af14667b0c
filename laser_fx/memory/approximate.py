"""Chooses codecs for kept values, within a bound on the error of gradients that is measured and not inferred.

Which codecs a value may have is decided in rounds. In each, what a value's codec alone does to the gradients is
measured for every value that the plan at hand would keep with one; the next plan pays for these errors. What counts in
the end is the error of the whole plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from laser_fx.memory.choose import Offers, is_whole
from laser_fx.memory.codecs import Codec
from laser_fx.memory.fit import Part, highest_price, lowest_price, totals
from laser_fx.memory.operators import size
from laser_fx.memory.policy import Fixed, Policy, Priced, codecs_of
from laser_fx.memory.values import Values

__all__ = ["Approximation", "Found", "Gradients", "Menu", "gradient_error", "may_be_encoded"]

Gradients = Callable[[], Sequence[Tensor | None]]
"""Runs forward and backward of the call under the policies at hand, always with the same numbers."""
Encoded = tuple[int, str, Codec]
"""The place of a part, the name of a value in it, and the codec that it is kept with."""

Menu = Callable[[Part, fx.Node], Sequence[Codec]]
"""The codecs that a value may be kept with besides exactly."""
_SHARE = 1000
"""Values that are smaller than this part of what a segment keeps in eager are kept exactly."""
_LOWER = 5
_ROUNDS = 12
_TAXES = -8, 6
"""Powers of four by which an error is taxed, in terms of all of eager's bytes for an error as large as aimed at."""
_NEARER = 0.8
_PROHIBITIVE = 1 << 50
_ROUNDING = 1e-6
"""Of the largest gradient, in the root of the mean square: what is smaller is what float32 rounds."""


@dataclass(frozen=True)
class Found:
    """A plan that keeps within the bound.

    Args:
        policies: one for each part.
        error: of the gradients, as measured.
        alone: for each part, name of a value → error when that value alone is kept with its codec.
    """

    policies: tuple[Policy, ...]
    error: float
    alone: tuple[dict[str, float], ...]


def gradient_error(found: Sequence[Tensor | None], exact: Sequence[Tensor | None]) -> float:
    """Relative error ‖g − g'‖ / ‖g‖ of the gradient that is worst off; infinite where one is missing or not finite.

    A gradient that is zero but for rounding, as that of a bias of keys in attention, has no direction to keep: where it
    is below a millionth of the largest one, number by number, it counts as a gradient of that length.

    >>> import torch
    >>> gradient_error([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])])
    0.1
    """
    largest = max((_mean_size(e) for e in exact if e is not None), default=0.0)
    return max((_relative(f, e, _ROUNDING * largest) for f, e in zip(found, exact, strict=True)), default=0.0)


def _mean_size(gradient: Tensor) -> float:
    """The root of the mean square of its numbers; 0 where that is not finite, or where there are none."""
    size = float(gradient.double().norm()) / max(gradient.numel(), 1) ** 0.5
    return size if math.isfinite(size) else 0.0


def _relative(found: Tensor | None, exact: Tensor | None, rounding: float) -> float:
    if exact is None or found is None:
        return 0.0 if found is exact else float("inf")
    least = rounding * exact.numel() ** 0.5
    length, reached = float(exact.double().norm()), float(found.double().norm())
    error = float((found.double() - exact.double()).norm())
    if not math.isfinite(error):
        return float("inf")
    if error == 0.0 or max(length, reached) <= least:
        return 0.0
    return error / max(length, least) if max(length, least) else float("inf")


class Approximation:
    """The search for codecs.

    Args:
        parts: of the call.
        gradients: runs the call.
        bound: largest `gradient_error`.
        menu: the codecs of each value.
    """

    def __init__(self, parts: Sequence[Part], gradients: Gradients, bound: float, menu: Menu) -> None:
        self.parts, self.gradients, self.bound, self.menu = parts, gradients, bound, menu
        self.alone: dict[Encoded, float] = {}
        self._apply([Priced()] * len(parts))
        self.exact = gradients()

    def within(self, budget: int | None, limit: float = math.inf) -> Found | None:
        """Little time within so many bytes, or the least bytes where there is no budget; None where nothing fits.

        Args:
            budget: bytes.
            limit: nanoseconds that all parts may take, where there is no budget.
        """
        aim = self.bound
        for _ in range(_ROUNDS):
            policies = self._proposal(budget, aim, limit)
            if policies is None:
                return None
            if self._measure_alone(policies):
                continue  # what was taken for free has a price now
            error = self._error(policies)
            if error <= self.bound:
                return self._found(policies, error)
            aim = _NEARER * min(aim, aim * self.bound / error)
        return None

    def _proposal(self, budget: int | None, aim: float, limit: float) -> list[Priced] | None:
        """The quickest plan whose bytes and expected error are as asked; the one with the least bytes without a budget.

        Errors are taxed as time is priced, so that a plan is the cheapest for some tax and price.
        """
        whole = sum(part.eager_bytes for part in self.parts) / aim**2
        taxes = (0.0, *(whole * 4.0**power for power in range(*_TAXES)), math.inf)
        tried = [policies for tax in taxes for policies in self._candidates(budget, tax, limit)]
        fitting = [p for p in tried if self._expected(p) <= aim and (limit == math.inf or self._time(p) <= limit)]
        cost = self._bytes if budget is None else self._time
        return min(fitting, key=cost, default=None)

    def _candidates(self, budget: int | None, tax: float, limit: float) -> Iterator[list[Priced]]:
        offers = [self._offers(place, part, tax) for place, part in enumerate(self.parts)]
        for price in self._prices(budget, offers, limit):
            policies = [Priced(price, offers=offer) for offer in offers]
            if budget is None or totals(self.parts, policies) <= budget:
                yield policies

    def _prices(self, budget: int | None, offers: Sequence[Offers], limit: float) -> list[float]:
        if budget is None:
            return [0.0 if limit == math.inf else lowest_price(self.parts, limit, offers)]
        high = highest_price(self.parts, budget, offers)
        if high is None:
            return []
        # At a lower price more is made again and less is kept in few bits.
        return [high, *(high / 8**power for power in range(1, _LOWER) if high), 0.0]

    def _bytes(self, policies: Sequence[Policy]) -> int:
        return totals(self.parts, policies)

    def _time(self, policies: Sequence[Policy]) -> int:
        return sum(part.time(policy) for part, policy in zip(self.parts, policies, strict=True))

    def _offers(self, place: int, part: Part, tax: float) -> Offers:
        if tax == math.inf:
            return {}
        least = part.eager_bytes // (part.segment.times * _SHARE)
        nodes = [node for node in part.values.forward if may_be_encoded(part.values, node) and size(node) >= least]
        return {
            node.name: [(codec, self._penalty(place, node.name, codec, tax)) for codec in self.menu(part, node)]
            for node in nodes
        }

    def _penalty(self, place: int, name: str, codec: Codec, tax: float) -> int:
        return min(int(tax * self.alone.get((place, name, codec), 0.0) ** 2), _PROHIBITIVE)

    def _expected(self, policies: Sequence[Policy]) -> float:
        """Errors of different values point in different directions: their squares add up."""
        return math.sqrt(sum(self.alone.get(entry, 0.0) ** 2 for entry in self._encoded(policies)))

    def _encoded(self, policies: Sequence[Policy]) -> Iterator[Encoded]:
        for place, (part, policy) in enumerate(zip(self.parts, policies, strict=True)):
            for name, codec in codecs_of(part.kept(policy)).items():
                yield place, name, codec

    def _measure_alone(self, policies: Sequence[Policy]) -> bool:
        """Measure what was not measured yet; whether there was anything."""
        new = [entry for entry in self._encoded(policies) if entry not in self.alone]
        for place, name, codec in new:
            alone = [Fixed(policy, {name: codec} if here == place else {}) for here, policy in enumerate(policies)]
            self.alone[place, name, codec] = self._error(alone)
        return bool(new)

    def _error(self, policies: Sequence[Policy]) -> float:
        self._apply(policies)
        return gradient_error(self.gradients(), self.exact)

    def _apply(self, policies: Sequence[Policy]) -> None:
        for part, policy in zip(self.parts, policies, strict=True):
            part.follow(policy)

    def _found(self, policies: Sequence[Policy], error: float) -> Found:
        alone: list[dict[str, float]] = [{} for _ in self.parts]
        for place, name, codec in self._encoded(policies):
            alone[place][name] = self.alone[place, name, codec]
        return Found(tuple(policies), error, tuple(alone))


def may_be_encoded(values: Values, node: fx.Node) -> bool:
    """Whether a value is a tensor of numbers of its own that is worth a codec, and differs from step to step."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point() or not is_whole(node):
        return False
    return values.share(node) == size(node)
