"""Tensors of a call, matched with a file's inputs by name, order or structure, and looked at before they are run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

from laser_fx.errors import InputError, NonFiniteError
from laser_fx.export.constants import check_constants
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.places import Places, Unlike, is_tensor
from laser_fx.export.sizes import broken

__all__ = ["check_values", "matched"]

_NUMPY_TYPES = {"float": "float32", "double": "float64"}


def matched(
    metadata: FileMetadata, names: Sequence[str], inputs: Sequence[Any], named: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Inputs by name: those by keyword first, the rest in order.

    Args:
        metadata: of the file.
        names: its inputs.
        inputs: tensors or structures of them, in order.
        named: the same by name.
        where: the file.

    Raises:
        InputError: an input that there is not, too few or too many, a structure that is not the model's, or a constant
            other than the captured one.
    """
    check_constants(metadata, tuple(inputs), dict(named), where)
    places = Places(metadata, where)
    known = ", ".join(map(repr, names))
    given = dict(pair for name, value in named.items() for pair in _by_name(places, name, value, names))
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"there is no input {unknown[0]!r}", where=where, fix=f"choose among {known}")
    found = given | _in_order(places, inputs, names, given, where)
    if missing := [name for name in names if name not in found]:
        raise InputError(f"there is no value for {missing[0]!r}", where=where, fix=f"pass one for each of {known}")
    return {name: found[name] for name in names}


def _by_name(places: Places, name: str, value: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    try:
        yield from _leaves(value, name) if name in names and is_tensor(value) else places.of(name, value).items()
    except Unlike:
        yield from _leaves(value, name)


def _in_order(
    places: Places, inputs: Sequence[Any], names: Sequence[str], given: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Inputs by name, of those that came in order: by their structures, else one after the other."""
    if not all(map(is_tensor, inputs)):
        try:
            return places.of_all(inputs)
        except Unlike:
            _refuse_keys(inputs, where)
    ordered = [value for _, value in _leaves(list(inputs), "")]
    free = [name for name in places.in_order() if name not in given]
    others = [name for name in names if name not in given and name not in free]
    if len(ordered) > len(free) or (not others and len(ordered) < len(free)):
        fix = f"pass one for each of {', '.join(map(repr, free)) or 'none'}"
        raise InputError(
            f"{len(ordered)} tensors came in order, {len(free)} inputs are left",
            where=where,
            fix=fix if not others else f"{fix}, and by name {', '.join(map(repr, others))}",
        )
    return dict(zip(free, ordered, strict=False))


def _refuse_keys(value: Any, where: str) -> None:
    """A dict whose keys say nothing to the file: in which order its tensors stand is chance."""
    if isinstance(value, Mapping) and sum(1 for _ in _leaves(value, "")) > 1:
        raise InputError(
            f"the keys {', '.join(map(repr, value))} are not those of the argument that the file was exported with",
            where=where,
            fix="pass its tensors by name: see OnnxModel.input_names",
        )
    for item in value if isinstance(value, list | tuple) else ():
        _refuse_keys(item, where)


def check_values(values: Mapping[str, Any], expected: Mapping[str, Any], metadata: FileMetadata, where: str) -> None:
    """Refuse what the file was not made for.

    Args:
        values: by input.
        expected: of ONNX Runtime, name, type and shape by input.
        metadata: of the file.
        where: the file.

    Raises:
        InputError: another dtype, another shape, sizes that belong together and differ, or that the trace excludes.
        NonFiniteError: NaN in an input that lies on the CPU.
    """
    symbols: dict[str, tuple[int, str]] = {}
    for name, value in values.items():
        if isinstance(value, Tensor) and value.is_meta:
            raise InputError(
                f"{name!r} is a meta tensor, without values", where=name, fix="pass one on the CPU or on CUDA"
            )
        _check_dtype(name, value, expected[name].type)
        _check_shape(name, tuple(value.shape), expected[name].shape, symbols)
        if _has_nan(value):
            raise NonFiniteError(f"{name!r} holds NaN", where=name, fix="find where it comes from: x.isnan()")
    _check_conditions(metadata, {symbol: size for symbol, (size, _) in symbols.items()}, where)


def _check_dtype(name: str, value: Any, wanted: str) -> None:
    dtype = wanted.removeprefix("tensor(").removesuffix(")")
    dtype = _NUMPY_TYPES.get(dtype, dtype)
    if _dtype(value) != dtype:
        raise InputError(f"{name!r} is {_dtype(value)}, not {dtype}", where=name, fix=f"cast it to {dtype}")


def _check_shape(
    name: str, shape: tuple[int, ...], wanted: Sequence[int | str | None], symbols: dict[str, tuple[int, str]]
) -> None:
    """Notes the size of every symbol, with the input that had it first."""
    if len(shape) != len(wanted) or not all(map(_fits, shape, wanted)):
        raise InputError(f"{name!r} has shape {shape}", where=name, fix=f"pass {wanted}, none of them 0")
    for size, symbol in zip(shape, wanted, strict=True):
        if isinstance(symbol, str) and symbols.setdefault(symbol, (size, name))[0] != size:
            first, other = symbols[symbol]
            raise InputError(
                f"{name!r} has {symbol} {size}, but {other!r} has {first}", where=name, fix="make them equal"
            )


def _check_conditions(metadata: FileMetadata, sizes: Mapping[str, int], where: str) -> None:
    condition = broken(metadata.conditions, sizes)
    if condition is not None:
        told = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
        raise InputError(
            f"the file holds only where {condition}, and the inputs have {told}",
            where=where,
            fix="pass other sizes, or export the model with these",
        )


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Tensors and arrays in a structure with their paths, ``carry.inner.z``."""
    if isinstance(value, list) and all(type(item) in (Tensor, np.ndarray) for item in value):
        yield from ((f"{path}.{index}" if path else str(index), item) for index, item in enumerate(value))
        return  # the common case, in a tenth of the time
    for keys, leaf in pytree.tree_flatten_with_path(value)[0]:
        here = ".".join([*([path] if path else []), *(_key(key) for key in keys)])
        if isinstance(leaf, Tensor | np.ndarray | np.generic):
            yield here, leaf if isinstance(leaf, Tensor) else np.asarray(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for field in dataclasses.fields(leaf):
                yield from _leaves(getattr(leaf, field.name), f"{here}.{field.name}")


def _key(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _dtype(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")


def _has_nan(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.is_floating_point() and not value.is_cuda and bool(value.detach().isnan().any())
    return bool(np.issubdtype(value.dtype, np.floating) and np.isnan(value).any())


def _fits(size: int, expected: object) -> bool:
    return size == expected if isinstance(expected, int) else size > 0
