"""Random loop nests as data, and the hypothesis strategies that make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hypothesis import strategies as st

__all__ = ["LONGEST", "Case", "Level", "Mutation", "Operation", "cases", "clean_cases"]

LONGEST = 20
"""Steps of the longest loop: the per-step inputs have as many."""
MOST_OPERATIONS = 240

UNARY = ("tanh", "sin", "sigmoid", "relu", "detach")
BINARY = ("add", "sub", "mul")
OTHERS = ("linear", "matmul", "scale", "halves", "turn", "slice", "row", "dropout", "noise", "cast")
INITIAL = ("x", "y", "scaled", "zeros", "half", "start")
MUTATIONS = ("operator", "constant", "weight", "argument", "order", "dtype", "missing")
TURNS = ("none", "swap", "rotate", "remember")


@dataclass(frozen=True)
class Operation:
    """One line of a body.

    Args:
        name: of `UNARY`, `BINARY` or `OTHERS`.
        a: which value it reads, the newest being 0; ``b`` is that of its second argument.
        k: which weight, factor or row it takes.
    """

    name: str
    a: int = 0
    b: int = 1
    k: int = 0


@dataclass(frozen=True)
class Level:
    """One loop.

    Args:
        trips: how often it runs.
        operations: of a step; the last one's result goes through a linear and becomes the level's state.
        inner: the loops inside: the first before the operations, others behind them.
        records: whether every step returns something.
        turn: what the states do after a step.
        without_gradients: in how many of the first steps gradients are off.
        keeps: whether the new state is added to the old one.
    """

    trips: int
    operations: tuple[Operation, ...]
    inner: tuple[Level, ...] = ()
    records: bool = False
    turn: str = "none"
    without_gradients: int = 0
    keeps: bool = False

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Level]]:
        """(depth, level) of this one and those inside."""
        yield depth, self
        for level in self.inner:
            yield from level.walk(depth + 1)

    def step(self) -> int:
        """About how many operators a step has, were every loop in it of two steps."""
        return 2 * len(self.operations) + 3 + sum(2 * level.step() for level in self.inner)


@dataclass(frozen=True)
class Mutation:
    """What differs, at one step of one operation.

    Args:
        kind: of `MUTATIONS`.
        operation: number of the operation in the text, modulo how many there are.
        step: of each level around it, modulo its trips.
    """

    kind: str
    operation: int
    step: tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """A program.

    Args:
        levels: its outermost loops, one after another.
        initial: what each of the three states begins as.
        tied: whether the third weight is the first one.
        training: whether gradients are on.
        mutation: what differs in one step.
    """

    levels: tuple[Level, ...]
    initial: tuple[str, str, str] = ("x", "y", "scaled")
    tied: bool = False
    training: bool = False
    mutation: Mutation | None = None

    def walk(self) -> Iterator[tuple[int, Level]]:
        """(depth, level) of every loop."""
        for level in self.levels:
            yield from level.walk()

    def trips(self) -> tuple[tuple[int, int], ...]:
        """The nest as it was written."""
        return tuple((depth, level.trips) for depth, level in self.walk())


def _operations() -> st.SearchStrategy[tuple[Operation, ...]]:
    newest, any_value = st.just(0) | st.integers(0, 6), st.integers(0, 6)
    one = st.builds(Operation, st.sampled_from((*BINARY, *OTHERS, *UNARY)), newest, any_value, st.integers(0, 3))
    return st.lists(one, min_size=1, max_size=5).map(tuple)


def _levels(depth: int) -> st.SearchStrategy[Level]:
    return st.builds(
        Level,
        trips=st.integers(2, LONGEST),
        operations=_operations(),
        inner=st.just(()) if depth == 1 else st.lists(_levels(depth - 1), max_size=2).map(tuple),
        records=st.booleans(),
        turn=st.sampled_from(("none", *TURNS)),
        without_gradients=st.just(0) | st.integers(0, 3),
        keeps=st.booleans(),
    )


def _bounded(level: Level, budget: int) -> Level:
    """The level with trips so few that it executes about ``budget`` operators, or two steps of each loop."""
    trips = max(2, min(level.trips, budget // level.step()))
    share = (budget // trips - 2 * len(level.operations)) // max(1, len(level.inner))
    inner = tuple(_bounded(nested, share) for nested in level.inner)
    return replace(level, trips=trips, inner=inner, without_gradients=min(level.without_gradients, trips - 1))


def _all_bounded(levels: list[Level]) -> tuple[Level, ...]:
    return tuple(_bounded(level, MOST_OPERATIONS // len(levels)) for level in levels)


def cases(*, mutated: bool = False, training: bool | None = None) -> st.SearchStrategy[Case]:
    """Any nest.

    Args:
        mutated: whether something differs in one step of it.
        training: whether gradients are on; None for either.
    """
    steps = st.tuples(*(st.integers(0, LONGEST - 1) for _ in range(3)))
    mutations = st.builds(Mutation, st.sampled_from(MUTATIONS), st.integers(0, 14), steps)
    return st.builds(
        Case,
        levels=st.lists(_levels(3), min_size=1, max_size=2).map(_all_bounded),
        initial=st.tuples(*(st.sampled_from(INITIAL) for _ in range(3))),
        tied=st.booleans(),
        training=st.booleans() if training is None else st.just(training),
        mutation=mutations if mutated else st.none(),
    )


def clean_cases() -> st.SearchStrategy[Case]:
    """Nests in which every level has operators of its own, so that no other nest describes them as well."""
    return st.lists(st.integers(2, LONGEST), min_size=1, max_size=3).map(_clean)


def _clean(trips: list[int]) -> Case:
    own = ("sin", "sigmoid", "scale")
    inner: tuple[Level, ...] = ()
    for depth in reversed(range(len(trips))):
        fed = Operation("add", 0, 4 - depth)  # the input, or the state of the level around it
        inner = (Level(trips[depth], (Operation(own[depth], k=depth), fed), inner),)
    return Case(_all_bounded(list(inner)))
