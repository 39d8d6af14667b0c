"""The arguments of one call, flat: pytrees taken apart and put together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

__all__ = ["Call", "flatten_call", "path_name", "register_dataclasses"]


@dataclass(frozen=True)
class Call:
    """The arguments of one call, flat.

    Args:
        tensors: tensor leaves, in pytree order.
        names: a readable name for each: ``carry.inner_carry.z_H``, ``batch.inputs``.
        constants: position and value of each leaf that is no tensor; a graph has them burnt in.
        spec: the tree they came from.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    constants: tuple[tuple[int, Any], ...]
    spec: pytree.TreeSpec

    def rebuild(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) with these tensors in the places of the original ones."""
        fixed, remaining = dict(self.constants), iter(tensors)
        count = len(fixed) + len(self.tensors)
        leaves = [fixed[i] if i in fixed else next(remaining) for i in range(count)]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return args, kwargs

    @property
    def device_type(self) -> str:
        """Where the first tensor is: ``cpu``, ``cuda``."""
        return self.tensors[0].device.type if self.tensors else "cpu"

    def shared_batch(self) -> int | None:
        """The leading size that most tensor leaves share, the first leaf's on a tie; None without tensors."""
        sizes = Counter(t.shape[0] for t in self.tensors if t.ndim)
        return max(sizes, key=lambda size: sizes[size]) if sizes else None


def flatten_call(args: tuple[Any, ...], kwargs: Mapping[str, Any], parameters: Sequence[str] = ()) -> Call:
    """Take a call apart. ``parameters`` are the names of the positional arguments, for readable leaf names.

    >>> call = flatten_call((torch.ones(2, 3),), {"scale": 2.0}, ("x",))
    >>> call.names, call.constants
    (('x',), ((1, 2.0),))
    """
    tree = (tuple(args), dict(sorted(kwargs.items())))
    register_dataclasses(tree)
    paths, spec = pytree.tree_flatten_with_path(tree)
    tensors, names, constants = [], [], []
    for position, (path, leaf) in enumerate(paths):
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
            names.append(_argument_name(path, parameters))
        else:
            constants.append((position, leaf))
    return Call(tuple(tensors), tuple(names), tuple(constants), spec)


def register_dataclasses(tree: Any) -> None:
    """Register every unregistered dataclass in ``tree`` as a pytree, once, so that its tensors are seen."""
    for value in _walk(tree):
        if dataclasses.is_dataclass(value) and type(value) not in pytree.SUPPORTED_NODES:
            torch.export.register_dataclass(type(value))


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _walk(getattr(value, entry.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _walk(item)


def _argument_name(path: tuple[Any, ...], parameters: Sequence[str]) -> str:
    """Name of an input leaf: the argument's own name, then the path inside it."""
    kind, first, *rest = path
    if kind.idx == 0:
        head = parameters[first.idx] if first.idx < len(parameters) else f"arg{first.idx}"
    else:
        head = str(first.key)
    return ".".join([head, *(_entry_name(entry) for entry in rest)])


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path as text: ``outputs.logits``, empty for a lone leaf."""
    return ".".join(_entry_name(entry) for entry in path)


def _entry_name(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
