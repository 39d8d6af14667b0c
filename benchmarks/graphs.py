"""Long captured graphs, built by hand in milliseconds: a clean nest, and graphs made to be hard for a loop detector."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laser_fx.nodes import GRAD_ENABLED

__all__ = ["ADVERSARIAL", "INNER_TRIPS", "STATES", "Chain", "Word"]

aten = torch.ops.aten

STATES = {"p_up": "up.weight", "p_down": "down.weight"}
INNER_TRIPS = 6
FUNCTIONS = {"t": aten.tanh.default, "s": aten.sin.default, "r": aten.relu.default}
WIDTH = 16


class _Builder:
    """A graph with two weights and an input; ``graph_module`` once it is written."""

    graph_module: fx.GraphModule

    def __init__(self) -> None:
        self.graph = fx.Graph()
        with FakeTensorMode():
            self.value, self.weight = torch.empty(4, WIDTH), torch.empty(WIDTH, WIDTH)
        self.up, self.down = (self.placeholder(name, self.weight) for name in STATES)
        self.x = self.placeholder("in_x", self.value)

    def finish(self, *outputs: fx.Node) -> None:
        self.graph.output(outputs)
        self.graph_module = fx.GraphModule(torch.nn.Module(), self.graph)

    @property
    def nodes(self) -> int:
        return len(self.graph.nodes)

    def call(self, target: Any, *args: Any) -> fx.Node:
        return self.described(self.graph.call_function(target, args), self.value)

    def placeholder(self, name: str, value: torch.Tensor) -> fx.Node:
        return self.described(self.graph.placeholder(name), value)

    def described(self, node: fx.Node, value: torch.Tensor) -> fx.Node:
        node.meta = {"val": value, GRAD_ENABLED: False}
        return node


class Chain(_Builder):
    """An unrolled nest: outer steps of six inner steps and an update, as a captured graph has them."""

    def __init__(self, length: int) -> None:
        super().__init__()
        z = h = self.placeholder("in_h", self.value)
        self.trips = 0
        while self.nodes < length:
            for _ in range(INNER_TRIPS):
                z = self.layer(self.call(aten.add.Tensor, z, self.call(aten.add.Tensor, h, self.x)))
            h = self.layer(self.call(aten.add.Tensor, h, z))
            self.trips += 1
        self.finish(h, z)

    def layer(self, z: fx.Node) -> fx.Node:
        inner = self.call(aten.silu.default, self.call(aten.linear.default, z, self.up))
        mixed = self.call(aten.linear.default, self.call(aten.mul.Tensor, inner, z), self.down)
        return self.call(aten.tanh.default, self.call(aten.add.Tensor, z, self.call(aten.detach.default, mixed)))


class Word(_Builder):
    """One operation for each letter of a word; a number is a factor.

    ``U`` and ``D`` are the two weights, ``x`` adds the input, ``t``, ``s`` and ``r`` are tanh, sin and relu.
    """

    def __init__(self, letters: Sequence[str | float]) -> None:
        super().__init__()
        z = self.x
        for letter in letters:
            z = self._letter(letter, z)
        self.finish(z)

    def _letter(self, letter: str | float, z: fx.Node) -> fx.Node:
        if isinstance(letter, float):
            return self.call(aten.mul.Tensor, z, letter)
        if letter in "UD":
            return self.call(aten.linear.default, z, self.up if letter == "U" else self.down)
        return self.call(aten.add.Tensor, z, self.x) if letter == "x" else self.call(FUNCTIONS[letter], z)


def fibonacci(length: int, seeds: tuple[str, str] = ("UtxD", "UtxDs")) -> str:
    """A Fibonacci word: every part of it recurs, nothing in it has a period."""
    a, b = seeds
    while len(b) < length:
        a, b = b, b + a
    return b[:length]


def noisy(length: int, share: float) -> str:
    """A periodic word in which this share of the letters is another one."""
    draw = random.Random(0)
    return "".join("r" if draw.random() < share else letter for letter in "UtxDsx" * (length // 6))


def letters_at_random(length: int) -> str:
    """No structure at all."""
    draw = random.Random(0)
    return "".join(draw.choice("UDtsrx") for _ in range(length))


def eight_deep(length: int) -> str:
    """One period, nested eight deep, as often as it fits."""
    word = "Ux"
    for level in range(8):
        word = word * 3 + "tsr"[level % 3] + "DU"[level % 2]
    return (word * (length // len(word) + 1))[:length]


def growing_powers(length: int) -> str:
    """One step, then two, then three …, with another operation between: as many periods as their number allows."""
    word, power = "", 1
    while len(word) < length:
        word, power = word + "Ut" * power + "D", power + 1
    return word[:length]


def another_constant_each_step(length: int) -> list[str | float]:
    """Near-loops alone: every step has a factor of its own."""
    word: list[str | float] = []
    while len(word) < length:
        word += [*"UtxDs", 0.5 + len(word)]
    return word[:length]


def another_constant_every_seventh(length: int) -> list[str | float]:
    """Short loops, all alike, with near-loops of them around."""
    word: list[str | float] = []
    while len(word) < length:
        word += [*("UtxDs" * 7), 0.5 + len(word)]
    return word[:length]


ADVERSARIAL: dict[str, Callable[[int], Sequence[str | float]]] = {
    "periodic, 1 % noise": lambda length: noisy(length, 0.01),
    "periodic, 10 % noise": lambda length: noisy(length, 0.1),
    "random letters": letters_at_random,
    "Fibonacci word": fibonacci,
    "Fibonacci word of two weights": lambda length: fibonacci(length, ("U", "D")),
    "one period nested eight deep": eight_deep,
    "growing powers": growing_powers,
    "near-loops, a constant a step": another_constant_each_step,
    "near-loops around short loops": another_constant_every_seventh,
    "one operation again and again": lambda length: "U" * length,
}
"""Name → a word of the length."""
