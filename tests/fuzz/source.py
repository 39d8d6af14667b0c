"""A case as plain PyTorch: the text of a function that runs it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.fuzz.program import BINARY, UNARY, Case, Level, Mutation, Operation

__all__ = ["PRELUDE", "program_source"]

FACTORS = (0.5, 0.25, -1.5, 0.75)
STATES = ("s0", "s1", "s2")
WEIGHTS = 3

PRELUDE = """
def halves(z):
    parts = aten.split.Tensor(z, 2, -1)
    return aten.cat.default([getitem(parts, 1), getitem(parts, 0)], -1)


def turn(z):
    square = aten.transpose.int(aten.reshape.default(z, [-1, 2, 2]), 1, 2)
    return aten.reshape.default(square, [-1, 4])


def cast(z):
    return aten.to.dtype(aten.to.dtype(z, torch.float64), torch.float32)
"""

_INITIAL = {
    "x": "x",
    "y": "y",
    "scaled": "aten.mul.Tensor(x, 0.5)",
    "zeros": "aten.zeros_like.default(x)",
    "half": "aten.full_like.default(x, 0.5)",
    "start": "aten.add.Tensor(aten.zeros_like.default(x), p.start)",
}
_TURNS = {"swap": "s0, s1 = s1, s0", "rotate": "s0, s1, s2 = s1, s2, s0"}


def program_source(case: Case) -> str:
    """The text of ``program(p, x, y, xs)``: ``x`` and ``y`` (rows, 4), ``xs`` (rows, 20, 4), weights in ``p``."""
    return "\n".join(["def program(p, x, y, xs):", *(f"    {line}" for line in _Writer(case).lines())])


@dataclass
class _Writer:
    case: Case
    count: int = 0
    numbers: int = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = sum(len(level.operations) for _, level in self.case.walk())

    def lines(self) -> Iterator[str]:
        for state, initial in zip(STATES, self.case.initial, strict=True):
            yield f"{state} = {_INITIAL[initial]}"
        yield "records = []"
        for level in self.case.levels:
            yield from self._loop(level, ())
        yield "return (s0, s1, s2, *records)"

    def _loop(self, level: Level, around: tuple[int, ...]) -> Iterator[str]:
        """``around``: trips of the loops around it."""
        depth = len(around)
        yield f"for t{depth} in range({level.trips}):"
        indent = "    "
        if level.without_gradients:
            yield f"{indent}with gradients(t{depth} >= {level.without_gradients}):"
            indent *= 2
        yield from (indent + line for line in self._step(level, (*around, level.trips)))

    def _step(self, level: Level, trips: tuple[int, ...]) -> Iterator[str]:
        own = STATES[len(trips) - 1]
        for inner in level.inner[:1]:
            yield from self._loop(inner, trips)
        values = ["y", "x", *(state for state in STATES if state != own), own]
        for operation in level.operations:
            name = f"v{self.count}"
            yield f"{name} = {self._expression(operation, values, trips)}"
            values.append(name)
            self.count += 1
        for inner in level.inner[1:]:
            yield from self._loop(inner, trips)
        update = f"aten.linear.default({values[-1]}, p.w0, p.b0)"
        if level.keeps:
            update = f"aten.add.Tensor({own}, {update})"
        if level.turn == "remember":
            yield f"{STATES[len(trips) - 2]} = {own}"
        yield f"{own} = aten.tanh.default({update})"
        if level.records:
            yield f"records.append(aten.sum.dim_IntList({values[-1]}, [-1]))"
        yield from [_TURNS[level.turn]] if level.turn in _TURNS else []

    def _expression(self, operation: Operation, values: list[str], trips: tuple[int, ...]) -> str:
        depth = len(trips) - 1
        usual = _call(operation, values, depth)
        mutation = self.case.mutation
        if mutation is None or mutation.operation % self.numbers != self.count:
            return usual
        here = " and ".join(
            f"t{d} == {step % n}" for d, (step, n) in enumerate(zip(mutation.step, trips, strict=False))
        )
        return f"{_mutated(mutation, operation, values, depth, usual)} if {here} else {usual}"


def _value(values: list[str], back: int) -> str:
    return values[-1 - back % len(values)]


def _call(operation: Operation, values: list[str], depth: int) -> str:
    a, b, name, k = _value(values, operation.a), _value(values, operation.b), operation.name, operation.k
    if name in UNARY:
        return f"aten.{name}.default({a})"
    if name in BINARY:
        return f"aten.{name}.Tensor({a}, {b})"
    others = {
        "linear": f"aten.linear.default({a}, p.w{k % WEIGHTS}, p.b{k % 2})",
        "matmul": f"aten.matmul.default({a}, p.w{k % WEIGHTS})",
        "scale": f"aten.mul.Tensor({a}, {FACTORS[k % len(FACTORS)]})",
        "slice": f"aten.add.Tensor({a}, aten.select.int(xs, 1, t{depth}))",
        "row": f"aten.add.Tensor({a}, aten.select.int(p.rows, 0, t{depth}))",
        "dropout": f"aten.dropout.default({a}, 0.5, True)",
        "noise": f"aten.mul.Tensor({a}, aten.rand_like.default({a}))",
    }
    return others.get(name, f"{name}({a})")


def _mutated(mutation: Mutation, operation: Operation, values: list[str], depth: int, usual: str) -> str:
    other = Operation(operation.name, operation.a, operation.b, operation.k + 1)
    moved = Operation(operation.name, operation.a + 1, operation.b, operation.k)
    a, b = _value(values, operation.a), _value(values, operation.b)
    return {
        "operator": f"aten.cos.default({a})",
        "constant": f"aten.mul.Tensor({usual}, 1.5)" if operation.name != "scale" else _call(other, values, depth),
        "weight": _call(other, values, depth)
        if operation.name in ("linear", "matmul")
        else f"aten.mul.Tensor({usual}, p.start)",
        "argument": _call(moved, values, depth),
        "order": _call(Operation(operation.name, operation.b, operation.a, operation.k), values, depth)
        if operation.name in BINARY
        else f"aten.sub.Tensor({b}, {a})",
        "dtype": f"cast({usual})",
        "missing": a,
    }[mutation.kind]
