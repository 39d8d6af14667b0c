"""What computing a value takes: a table of operators, each timed once on this machine for the forms that it meets."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from laser_fx.memory.codecs import Codec
from laser_fx.memory.joint import Form, form_of
from laser_fx.memory.operators import flops, is_view, is_view_operator
from laser_fx.memory.products import is_faster, onednn_product
from laser_fx.memory.stopwatch import noise, seconds

__all__ = ["codec_time", "nanoseconds", "operator_time"]

FLOPS_PER_NANOSECOND, BYTES_PER_NANOSECOND = 50, 8
"""Of a CPU core, for the operators that are not run: those that draw numbers, read places, or are not torch's own."""

_table: dict[Hashable, int] = {}


def nanoseconds(node: fx.Node, *, fastest: bool) -> int:
    """Time of one operator of a traced graph, at least 1; 0 for views and parts of tuples.

    Args:
        node: with the value of a fake run in ``meta["val"]``, as its sources have.
        fastest: whether products take the fastest kernel, see `laser_fx.memory.products`.
    """
    if node.op != "call_function" or node.target is operator.getitem or is_view(node):
        return 0
    target = onednn_product if fastest and is_faster(node) else node.target
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta.get("val"))
    return operator_time(target, args, kwargs, node.meta.get("val"))


def operator_time(target: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Nanoseconds of one call, at least 1; 0 for views.

    Args:
        target: the operator.
        args: its arguments; tensors may be fake ones.
        kwargs: its keyword arguments.
        result: what it returns, or a fake of it.
    """
    if is_view_operator(target):
        return 0
    forms = pytree.tree_map_only(Tensor, lambda value: form_of(value, False), (args, kwargs))
    key = (target, torch.get_num_threads(), str(forms))
    if key not in _table:
        measured = _timed(target, *forms) if _can_run(target, forms) else _estimated(target, args, kwargs, result)
        _table[key] = max(1, measured)
    return _table[key]


def _can_run(target: Any, forms: Any) -> bool:
    """Whether any numbers will do as inputs, and running it twice changes nothing."""
    if target is not onednn_product and not _is_plain(target):
        return False
    tensors = [leaf for leaf in pytree.tree_leaves(forms) if isinstance(leaf, Form)]
    return all(form.dtype.is_floating_point and form.device.type in ("cpu", "cuda") for form in tensors)


def _is_plain(target: Any) -> bool:
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags and not target._schema.is_mutable


def _timed(target: Any, args: Any, kwargs: Any) -> int:
    with _disable_current_modes():
        args, kwargs = pytree.tree_map_only(Form, _numbers, (args, kwargs))
    devices = [leaf.device.type for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    return round(1e9 * seconds(lambda: target(*args, **kwargs), next(iter(devices), "cpu")))


def _numbers(form: Form) -> Tensor:
    """Random numbers of a form, which may overlap itself."""
    extent = 1 + sum((length - 1) * step for length, step in zip(form.shape, form.stride, strict=True))
    storage = noise(max(extent, 0), form.device).to(form.dtype)
    return storage.as_strided(form.shape, form.stride)


def _estimated(target: Any, args: Any, kwargs: Any, result: Any) -> int:
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
    moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return moved // BYTES_PER_NANOSECOND + flops(target, args, kwargs, result) // FLOPS_PER_NANOSECOND


def codec_time(codec: Codec, form: Form) -> int:
    """Nanoseconds to encode a value of this form and decode it."""
    key = (codec.cost_key, torch.get_num_threads(), form)
    if key not in _table:
        with _disable_current_modes():
            value = _numbers(form)
        _table[key] = round(1e9 * seconds(lambda: codec.decode(codec.encode(value), form), form.device.type))
    return _table[key]
