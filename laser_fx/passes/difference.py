"""In what one use of an operator differs from another one, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.passes.keys import is_symbolic
from laser_fx.passes.normalise import Kind, Ref, View
from laser_fx.passes.source import module_path

__all__ = ["Comparer", "Difference", "Place"]

_NOTHING = object()


@dataclass(frozen=True)
class Difference:
    """What is different at one operator.

    Args:
        node: the operator.
        argument: the argument that differs, by its name in the operator's schema; None where it is not an argument.
        odd: what the operator does, following its name in a sentence.
        usual: what the one that it is compared with does.
    """

    node: fx.Node
    argument: str | None
    odd: str
    usual: str


@dataclass(frozen=True)
class Place:
    """An operator in a step of a repetition.

    Args:
        index: of the operator in the view's block.
        step_start: of the first operator of its step.
        first: of the first operator of the repetition.
        period: operators a step.
    """

    index: int
    step_start: int
    first: int
    period: int


class Comparer:
    """Compares operators of a view.

    Args:
        view: from `normalise`.
        states: placeholder → name of the parameter or buffer in the model.
    """

    def __init__(self, view: View, states: Mapping[str, str]) -> None:
        self.view, self.states, self.items = view, states, view.block.items

    def difference(self, usual: Place, odd: Place) -> Difference:
        """The first of: operator, weight, constant, dtype, shape, grad mode, and which values are read."""
        a, b = self._node(usual.index), self._node(odd.index)
        if a.target != b.target:
            name = operator_name(a)
            return Difference(b, None, "is another operator", f"have {name}")
        ways = (self._weights, self._constants, self._values, self._grad_modes)
        found = next((d for way in ways for d in way(usual.index, odd.index)), None)
        return found or self._sources(usual, odd)

    def label(self, node: fx.Node) -> str:
        """``linear_9 (layers.0.up)``."""
        path = module_path(node)
        return f"{node.name} ({path})" if path else node.name

    def _node(self, index: int) -> fx.Node:
        node = self.items[index].node
        assert node is not None  # the view's own block holds no loop
        return node

    def _kind(self, index: int) -> Kind:
        kind = self.view.intern.key(self.items[index].token)
        assert isinstance(kind, Kind)
        return kind

    def _pairs(self, usual: int, odd: int) -> Iterator[tuple[str, Any, Any]]:
        """(argument, what stands there usually, what stands there in the odd step); `_NOTHING` where nothing does."""
        left, right = (dict(_leaves(self._node(index))) for index in (usual, odd))
        for key in dict.fromkeys([*left, *right]):
            yield key[0], left.get(key, _NOTHING), right.get(key, _NOTHING)

    def _weights(self, usual: int, odd: int) -> Iterator[Difference]:
        for argument, a, b in self._pairs(usual, odd):
            if (self._is_state(a) or self._is_state(b)) and self._static(a) is not self._static(b):
                yield Difference(
                    self._node(odd), argument, f"reads {self._state(b, argument)}", f"read {self._state(a, argument)}"
                )

    def _constants(self, usual: int, odd: int) -> Iterator[Difference]:
        for argument, a, b in self._pairs(usual, odd):
            if (self._is_value(a) and self._is_value(b)) or _shown(a) == _shown(b):
                continue
            here = f"reads {b.name}" if self._is_value(b) else f"has the constant {argument} = {_shown(b)}"
            there = f"read {a.name}" if self._is_value(a) else f"have {_shown(a)}"
            yield Difference(self._node(odd), argument, here, there)

    def _values(self, usual: int, odd: int) -> Iterator[Difference]:
        made, other = (list(_tensors(self._node(index).meta.get("val"))) for index in (usual, odd))
        for what, of in (("dtype", _dtype), ("shape", _shape), ("device", _device)):
            for a, b in zip(made, other, strict=False):
                if of(a) != of(b):
                    yield Difference(self._node(odd), None, f"gives the {what} {of(b)}", f"give {of(a)}")

    def _grad_modes(self, usual: int, odd: int) -> Iterator[Difference]:
        a, b = self._kind(usual).grad_enabled, self._kind(odd).grad_enabled
        if a != b:
            under = {True: "with gradients", False: "under no_grad"}
            yield Difference(self._node(odd), None, f"runs {under[b]}", f"run {under[a]}")

    def _sources(self, usual: Place, odd: Place) -> Difference:
        """Operators of one kind: some argument has another source."""
        node, reads = self._node(odd.index), [self._reads(place.index) for place in (usual, odd)]
        for (argument, a), (_, b) in zip(*reads, strict=True):
            there, here = self._source(a, usual), self._source(b, odd)
            sizes = [_shape(self.view.block.origin[ref].meta["val"]) for ref in (a, b)]
            if sizes[0] != sizes[1]:
                there, here = (f"a value of the shape {size}" for size in sizes)
            if there != here:
                return Difference(node, argument, f"reads {here} as its argument {argument}", f"read {there}")
        return Difference(node, None, f"calls {operator_name(node)} on other values", "do not")

    def _reads(self, index: int) -> Iterator[tuple[str, Ref]]:
        refs = iter(self.items[index].args)
        for (argument, _), leaf in _leaves(self._node(index)):
            if self._is_value(leaf) and not self._is_state(leaf):
                yield argument, next(refs)

    def _source(self, ref: Ref, place: Place) -> str:
        origin = self.view.block.origin[ref]
        if ref[0] < place.first:
            return f"{origin.name} from before the steps"
        if ref[0] >= place.step_start:
            return f"the {operator_name(origin)} number {ref[0] - place.step_start} of its step"
        back, offset = divmod(place.step_start - ref[0] - 1, place.period)
        ago = "the step before" if not back else f"{back + 1} steps before"
        return f"the {operator_name(origin)} number {place.period - 1 - offset} of {ago}"

    def _is_state(self, leaf: Any) -> bool:
        return isinstance(leaf, fx.Node) and leaf.op == "placeholder" and leaf in self.view.static

    def _is_value(self, leaf: Any) -> bool:
        return isinstance(leaf, fx.Node) and not is_symbolic(leaf)

    def _static(self, leaf: Any) -> Any:
        return self.view.static.get(leaf, leaf) if isinstance(leaf, fx.Node) else leaf

    def _state(self, leaf: Any, argument: str) -> str:
        if not isinstance(leaf, fx.Node):
            return f"no {argument}"
        if not self._is_state(leaf):
            return f"{leaf.name} as {argument}"
        kind = "weight" if leaf in self.view.weights else "constant"
        return f"the {kind} {self.states.get(leaf.name, leaf.name)}"


def operator_name(node: fx.Node) -> str:
    """``linear`` for ``aten.linear.default``."""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.rpartition("::")[2]
    return node.name if node.op == "placeholder" else str(getattr(node.target, "__name__", node.target))


def _leaves(node: fx.Node) -> Iterator[tuple[tuple[str, int], Any]]:
    """((argument, place in it), leaf) of every argument, lists taken apart, in order."""
    names = [a.name for a in node.target._schema.arguments] if isinstance(node.target, torch._ops.OpOverload) else []
    given = [(names[i] if i < len(names) else f"{i}", value) for i, value in enumerate(node.args)]
    for name, value in (*given, *node.kwargs.items()):
        for place, leaf in enumerate(_flat(value)):
            yield (name, place), leaf


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _tensors(value: Any) -> Iterator[Tensor]:
    return (v for v in _flat(value) if isinstance(v, Tensor))


def _shown(leaf: Any) -> str:
    if leaf is _NOTHING:
        return "none"
    return str(leaf.meta["val"]) if isinstance(leaf, fx.Node) else str(leaf)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "of a list"
    return f"({', '.join(str(size) for size in value.shape)})"


def _device(value: Tensor) -> str:
    return str(value.device)
