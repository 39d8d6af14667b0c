"""Structures of arguments and outputs as plain JSON, for a file that is read where the model's classes are not."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from torch.utils._pytree import TreeSpec

__all__ = [
    "CLASS",
    "CONSTANT",
    "TENSOR",
    "constant",
    "fill",
    "parameters_of",
    "plain_tree",
    "signature_of",
    "tensor",
    "tensor_names",
]

TENSOR, CONSTANT, CLASS = "$tensor", "$constant", "$class"


def plain_tree(spec: TreeSpec, leaves: Iterable[Any]) -> Any:
    """A pytree as JSON: a dict is an object, a list or a tuple an array, a dataclass an object with its ``"$class"``.

    Args:
        spec: the tree.
        leaves: what stands in the places of its leaves, made by `tensor` and `constant`.

    >>> import torch.utils._pytree as pytree
    >>> spec = pytree.tree_structure({"x": 0, "rest": (0, 2.0)})
    >>> plain_tree(spec, [tensor("x"), tensor("rest.0"), constant(2.0)])
    {'x': {'$tensor': 'x'}, 'rest': [{'$tensor': 'rest.0'}, {'$constant': 2.0}]}
    """
    return _node(spec, iter(leaves))


def tensor(name: str) -> dict[str, Any]:
    """The place of a tensor of that name."""
    return {TENSOR: name}


def constant(value: Any) -> dict[str, Any]:
    """The place of what is no tensor; of an object that JSON does not have, its class."""
    plain = isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))
    return {CONSTANT: value if plain else f"<{type(value).__qualname__}>"}


def fill(tree: Any, tensors: Mapping[str, Any]) -> Any:
    """A plain tree with tensors in their places: dicts and lists, constants as they were.

    >>> fill({"x": tensor("x"), "n": constant(2)}, {"x": 1.5})
    {'x': 1.5, 'n': 2}
    """
    if isinstance(tree, list):
        return [fill(item, tensors) for item in tree]
    if TENSOR in tree:
        return tensors[tree[TENSOR]]
    if CONSTANT in tree:
        return tree[CONSTANT]
    return {key: fill(item, tensors) for key, item in tree.items() if key != CLASS}


def tensor_names(tree: Any) -> Iterator[str]:
    """Names of the tensors of a plain tree, in order.

    >>> list(tensor_names([tensor("a"), {"b": tensor("b")}]))
    ['a', 'b']
    """
    if isinstance(tree, list):
        for item in tree:
            yield from tensor_names(item)
    elif TENSOR in tree:
        yield tree[TENSOR]
    elif CONSTANT not in tree:
        yield from tensor_names([item for key, item in tree.items() if key != CLASS])


def signature_of(function: Callable[..., Any], owner: str) -> str:
    """A method as text, the same in every process.

    >>> def forward(x: list[int], y: int = 0) -> int: ...
    >>> signature_of(forward, "Model")
    'Model.forward(x: list[int], y: int = 0) -> int'
    """
    signature = inspect.signature(function)
    bare = [p.replace(annotation=_bare(p.annotation)) for p in signature.parameters.values()]
    shown = signature.replace(parameters=bare, return_annotation=_bare(signature.return_annotation))
    return re.sub(r" at 0x[0-9a-f]+", "", f"{owner}.{function.__name__}{shown}")


@lru_cache(maxsize=256)
def parameters_of(signature: str) -> tuple[str, ...]:
    """Names of the parameters that take arguments in order; none where the text cannot be read.

    >>> parameters_of("Net.forward(ids, mask: 'Tensor | None' = None, *, flag=True) -> dict")
    ('ids', 'mask')
    """
    try:
        tree = ast.parse(f"def forward{signature[signature.index('(') :]}: ...").body[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    known = [*tree.args.posonlyargs, *tree.args.args] if isinstance(tree, ast.FunctionDef) else []
    return tuple(argument.arg for argument in known)


class _Bare(str):
    """An annotation that is text already, shown without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _node(spec: TreeSpec, leaves: Iterator[Any]) -> Any:
    if spec.is_leaf():
        return next(leaves)
    children = [_node(child, leaves) for child in spec.children()]
    if spec.type in (list, tuple):
        return children
    names = dict(zip(_names(spec), children, strict=True))
    is_dict = isinstance(spec.type, type) and issubclass(spec.type, dict)
    return names if is_dict else {CLASS: _class_name(spec), **names}


def _names(spec: TreeSpec) -> list[str]:
    """Keys of a dict, fields of a named tuple or a dataclass; positions of what is none of these."""
    context, count = spec.context, len(spec.children())
    candidates = [getattr(context, "_fields", None), context, *(context if isinstance(context, list | tuple) else ())]
    for names in candidates:
        if isinstance(names, list | tuple) and len(names) == count and not any(isinstance(n, list) for n in names):
            return [str(name) for name in names]
    return [str(position) for position in range(count)]


def _class_name(spec: TreeSpec) -> str:
    made = spec.context if isinstance(spec.context, type) else spec.type
    return str(getattr(made, "__qualname__", made))
