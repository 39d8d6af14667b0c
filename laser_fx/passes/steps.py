"""Equal steps: where one begins, and which operators of it are not those of the step before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from itertools import takewhile

from torch import fx

from laser_fx.passes.difference import Place
from laser_fx.passes.keys import Interner, describe
from laser_fx.passes.normalise import Kind, Ref, View
from laser_fx.passes.repetition import Stretch

__all__ = ["Operators", "Steps"]


@dataclass(frozen=True)
class Steps:
    """``trips`` steps of ``period`` operators from ``first`` on.

    >>> Steps(2, 5, 3).range(1), Steps(2, 5, 3).stop
    (range(7, 12), 17)
    """

    first: int
    period: int
    trips: int

    @property
    def stop(self) -> int:
        """The operator behind the last one."""
        return self.start(self.trips)

    def start(self, step: int) -> int:
        """The first operator of a step."""
        return self.first + self.period * step

    def range(self, step: int) -> range:
        """The operators of a step."""
        return range(self.start(step), self.start(step + 1))

    def place(self, index: int) -> Place:
        """Where in the repetition an operator stands."""
        start = self.start((index - self.first) // self.period)
        return Place(index, start, self.first, self.period)


class Operators:
    """The operators of a view, to be compared.

    Args:
        view: from `normalise`.

    Attributes:
        exact: one number for each, equal where all but the values read is equal.
        alike: another, equal where the operator is the same.
    """

    def __init__(self, view: View) -> None:
        self.view, self.items = view, view.block.items
        self.exact = [item.token for item in self.items]
        intern = Interner()
        self.alike = [intern(_operator(view.intern.key(token))) for token in self.exact]

    def node(self, index: int) -> fx.Node:
        """The captured node."""
        node = self.items[index].node
        assert node is not None  # the view's own block holds no loop
        return node

    def steps(self, stretch: Stretch, loops: Collection[int]) -> Steps:
        """Whole steps of a stretch.

        Args:
            stretch: from `repetitions`.
            loops: where found loops begin. A step begins where the first of them in the stretch does; without one, of
                the starts that the rest allows, where it cuts the fewest modules.
        """
        period, rest = stretch.period, (stretch.stop - stretch.start) % stretch.period
        found = min((start for start in loops if stretch.start <= start < stretch.stop), default=None)
        if found is None:
            first = min(range(stretch.start, stretch.start + rest + 1), key=self._depth)
        else:
            first = stretch.start + (found - stretch.start) % period
        return Steps(first, period, (stretch.stop - first) // period)

    def breaks(self, steps: Steps) -> dict[int, int]:
        """Step → its first operator that is not the one of the step before, one step later."""
        found = {step: self._break(steps, step) for step in range(1, steps.trips)}
        return {step: index for step, index in found.items() if index is not None}

    def weights(self, steps: Steps, step: int) -> set[fx.Node]:
        """The parameters that a step reads, or reads something made of."""
        sources = (source for index in steps.range(step) for source in self.node(index).all_input_nodes)
        return {self.view.static.get(source, source) for source in sources if source in self.view.weights}

    def uses(self, steps: Steps) -> int:
        """In how many steps the weight is read that most of them read; 0 where none reads any."""
        times = Counter(weight for step in range(steps.trips) for weight in self.weights(steps, step))
        return max(times.values(), default=0)

    def feed(self, steps: Steps) -> bool:
        """Whether every step reads something of the step before."""
        return all(self._reads_back(steps, step) for step in range(1, steps.trips))

    def _depth(self, index: int) -> int:
        """How many modules are open where a step would begin."""
        before, here = (self._modules(i) for i in (index - 1, index))
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, here, strict=False)))

    def _modules(self, index: int) -> list[str]:
        return list(self.node(index).meta.get("nn_module_stack") or ()) if index >= 0 else []

    def _break(self, steps: Steps, step: int) -> int | None:
        """The first operator of a step that is not the one of the step before, one step later."""
        return next((i for i in steps.range(step) if not self._recurs(steps, i, step == 1)), None)

    def _recurs(self, steps: Steps, index: int, second: bool) -> bool:
        a, b = self.items[index - steps.period], self.items[index]
        if a.token != b.token:
            return False
        pairs = zip(a.args, b.args, strict=True)
        return all(self._is_role(x, y, steps, second) for x, y in pairs)

    def _is_role(self, a: Ref, b: Ref, steps: Steps, second: bool) -> bool:
        """Carried or made in the step; the same at every step; or known up front."""
        if a[0] >= steps.first:
            return b[0] - a[0] == steps.period and a[1] == b[1]
        own = second and steps.first <= b[0] < steps.start(1)
        return a == b or ((b[0] < steps.first or own) and self._kind(a) == self._kind(b))

    def _kind(self, ref: Ref) -> Hashable:
        return describe(self.view.block.origin[ref].meta.get("val"))

    def _reads_back(self, steps: Steps, step: int) -> bool:
        before = steps.range(step - 1)
        return any(ref[0] in before for index in steps.range(step) for ref in self.items[index].args)


def _operator(kind: Hashable) -> Hashable:
    assert isinstance(kind, Kind)
    return kind.target
