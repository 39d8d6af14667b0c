"""What passes say of single nodes: keys that compare them, and what kind of node they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.passes.infra import rolled_loop

__all__ = ["Interner", "describe", "identity_reason", "is_random", "is_symbolic", "skeleton", "stops_gradients"]

aten = torch.ops.aten

_IDENTITIES = {aten.alias.default, aten.lift_fresh_copy.default, aten.detach.default, aten.detach_.default}
_CASTS = {aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten._to_copy.default}
_NO_OPS = _IDENTITIES | _CASTS
_SHAPE_READERS = {
    *(getattr(aten, f"{value}_like").default for value in ("zeros", "ones", "empty", "full", "rand", "randn")),
    *(getattr(aten, f"new_{value}").default for value in ("zeros", "ones", "empty", "full")),
}


class Interner:
    """Small numbers for hashable keys.

    >>> intern = Interner()
    >>> intern("a"), intern("b"), intern("a")
    (0, 1, 0)
    >>> intern.key(1)
    'b'
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._keys: list[Hashable] = []

    def __call__(self, key: Hashable) -> int:
        number = self._numbers.setdefault(key, len(self._keys))
        if number == len(self._keys):
            self._keys.append(key)
        return number

    def key(self, number: int) -> Hashable:
        """The key that has the number."""
        return self._keys[number]


def identity_reason(node: fx.Node, grad_enabled: bool) -> str | None:
    """Why the node returns its input unchanged, or None. ``grad_enabled``: the graph was captured with gradients on."""
    if node.target not in _NO_OPS or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    source, result = node.args[0].meta.get("val"), node.meta.get("val")
    if not isinstance(source, Tensor) or not isinstance(result, Tensor):
        return None
    if node.target in _IDENTITIES and not grad_enabled:
        return f"{node.target} without gradients is its input"
    same = (source.dtype, source.device, source.layout) == (result.dtype, result.device, result.layout)
    if node.target in _CASTS and same and not _copies(node):
        return f"a cast of {source.dtype} to {result.dtype} is its input"
    return None


def _copies(node: fx.Node) -> bool:
    if node.target is aten._to_copy.default or "memory_format" in node.kwargs:
        return True
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema), node.args, strict=False)) | dict(node.kwargs)
    return bool(given.get("copy", False))


def is_symbolic(node: fx.Node) -> bool:
    """Whether the node's value is a size, not a tensor."""
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


def stops_gradients(node: fx.Node) -> bool:
    """Whether no gradient passes the node whatever it reads: its value is integral, or made of its argument's shape."""
    value = node.meta.get("val")
    integral = isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
    return integral or node.target in _SHAPE_READERS


def is_random(node: fx.Node) -> bool:
    """Whether two runs of the node may differ; a loop that was captured as one is random if its body is."""
    owner = node.graph.owning_module
    loop = rolled_loop(owner, node) if owner is not None else None
    if loop is not None:
        return any(is_random(inner) for inner in loop.body.graph.nodes)
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def skeleton(argument: Any, leaf: Callable[[fx.Node], Hashable]) -> Hashable:
    """A hashable form of nested arguments, with ``leaf`` called for every node in order of appearance."""
    if isinstance(argument, fx.Node):
        return leaf(argument)
    if isinstance(argument, (tuple, list)):
        return ("sequence", *(skeleton(a, leaf) for a in argument))
    if isinstance(argument, dict):
        return ("mapping", *((k, skeleton(v, leaf)) for k, v in argument.items()))
    if isinstance(argument, slice):
        return ("slice", *(skeleton(a, leaf) for a in (argument.start, argument.stop, argument.step)))
    return (type(argument).__name__, str(argument))


def describe(value: Any) -> Hashable:
    """Shape, dtype and device of a fake value; a dynamic size is its symbol."""
    if isinstance(value, Tensor):
        return (tuple(str(size) for size in value.shape), str(value.dtype), str(value.device))
    if isinstance(value, (tuple, list)):
        return tuple(describe(v) for v in value)
    return str(value)
