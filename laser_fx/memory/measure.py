"""Measuring a call: the bytes that it holds for backward, and its floating-point operations."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

import laser_fx.folded_ops  # noqa: F401  registers operators that are counted here
from laser_fx import ops

__all__ = ["flops", "saved_bytes", "saved_storages"]


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor that autograd holds: it lives as long as the graph that saved it."""

    tensor: Tensor
    label: Any


def saved_bytes(fn: Callable[[], object], *, exclude: Iterable[Tensor] = ()) -> int:
    """Bytes that the graph of ``fn()`` holds for backward when the call has returned.

    Storages are counted, each once: views of one storage, and a tensor that two operations save, cost it once. What
    was saved but is freed by the end of the call is not counted. Parameters are not counted, nor are views of them.

    Args:
        fn: one forward call. What it returns is kept until the bytes are counted, so it must return what
            backward starts from.
        exclude: other tensors that live anyway, for example the model's buffers and inputs.

    Returns:
        Bytes; 0 where gradients are off.

    >>> weight = torch.nn.Parameter(torch.ones(8, 8))
    >>> x = torch.ones(4, 8)
    >>> saved_bytes(lambda: (x @ weight).exp())  # x for the product, the result for exp: 4 · 8 · 4 bytes each
    256
    """
    return sum(size for size, _ in saved_storages(fn, lambda: None, exclude=exclude))


def saved_storages(
    fn: Callable[[], object], label: Callable[[], Any], *, exclude: Iterable[Tensor] = ()
) -> list[tuple[int, list[Any]]]:
    """The storages that `saved_bytes` counts: bytes of each, and a label for every time that it was saved.

    Args:
        fn: one forward call, as there.
        label: called whenever a tensor is saved, parameters too.
        exclude: tensors that live anyway.
    """
    held: weakref.WeakSet[_Held] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Held:
        labelled = label()
        kept = _Held(tensor.detach(), labelled)  # an operation's own result would keep that operation alive for ever
        if not _is_parameter(tensor):
            held.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = fn()
    excluded = {_address(tensor) for tensor in exclude}
    found: dict[tuple[torch.device, int], tuple[int, list[Any]]] = {}
    for kept in held:
        size = kept.tensor.untyped_storage().nbytes()
        found.setdefault(_address(kept.tensor), (size, []))[1].append(kept.label)
    del result  # it kept the graph, and so the storages, alive: no two of them share an address
    return [entry for address, entry in found.items() if address not in excluded]


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)


def _address(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def flops(fn: Callable[[], object]) -> int:
    """Floating-point operations of ``fn()``: matrix products, convolutions and attention, two for each multiply-add.

    The operators of ``laser::`` count what they did in this call: a basis that was kept costs its measurement alone,
    one that was tracked or reset its products and orthonormalisation too.

    >>> a, b = torch.ones(4, 8), torch.ones(8, 2)
    >>> flops(lambda: a @ b)
    128
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with counter:
        fn()
    return counter.get_total_flops()


def _track(x: Tensor, q: Tensor, threshold: Tensor, out_val: tuple[Tensor, ...]) -> int:
    projected = _product(_rows(x), *q.shape)
    return projected if not out_val[3].item() else projected + _measure(x, q) + _power_iteration(x, q, projected=True)


def _reset(x: Tensor, q: Tensor, *_: Tensor, out_val: tuple[Tensor, ...]) -> int:
    return _measure(x, q) + 2 * _power_iteration(x, q) if out_val[2][ops.RESET].item() else 0


def _fold(weight: Tensor, q: Tensor, folded: Tensor, stats: Tensor, out_val: Tensor) -> int:
    return _product(weight.shape[0], *q.shape) if stats[ops.TRACKED] + stats[ops.RESET] > 0 else 0


def _folded_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, folded: Tensor, z: Tensor, stats: Tensor, out_val: Tensor
) -> int:
    inner = weight.shape[1] if stats[ops.EXACT].item() else folded.shape[0]
    return _product(_rows(x), inner, weight.shape[0])


def _output_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, v: Tensor, down: Tensor, error: Tensor, *_: Tensor, out_val: Any
) -> int:
    y, stats, outputs, features = out_val[0], out_val[4], *weight.shape
    looked = _product(_rows(x), features, v.shape[1] + error.shape[1])
    if not stats[ops.TRACKED].item():
        return looked + _product(_rows(x), v.shape[1], outputs)
    is_reset = bool(stats[ops.RESET].item())
    found = (3 if is_reset else 1) * _power_iteration(y, v) + (2 if is_reset else 1) * _measure(y, v)
    # A = WᵀV, and WᵀΩ − A(VᵀΩ)
    folded = _product(features, outputs, v.shape[1] + error.shape[1])
    probed = _product(v.shape[1], outputs + features, error.shape[1])
    return looked + _product(_rows(x), features, outputs) + found + folded + probed


def _linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, z: Tensor, stats: Tensor, out_val: Tensor
) -> int:
    return _product(_rows(x), *weight.shape)


def _attention_on_cpu(query: Tensor, key: Tensor, value: Tensor, *_: Any, out_val: Any, **__: Any) -> int:
    count: int = sdpa_flop_count(query.shape, key.shape, value.shape)
    return count


def _measure(x: Tensor, q: Tensor) -> int:
    """``XQ``, and the check that ``QᵀQ = I``."""
    return _product(_rows(x), *q.shape) + _product(q.shape[1], *q.shape)


def _power_iteration(x: Tensor, q: Tensor, *, projected: bool = False) -> int:
    """``Xᵀ(XQ)`` and its QR with Q formed: 4 D k². ``projected``: XQ was at hand."""
    products = 1 if projected else 2
    return products * _product(_rows(x), *q.shape) + 2 * _product(q.shape[1], *q.shape)


def _product(n: int, d: int, k: int) -> int:
    return 2 * n * d * k


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _on_tensors(formula: Callable[..., int]) -> Callable[..., int]:
    """Marks a formula that reads the values of tensors: what torch passes otherwise are shapes."""
    formula._get_raw = True  # type: ignore[attr-defined]
    return formula


_FORMULAS = {
    torch.ops.laser.track: _on_tensors(_track),
    torch.ops.laser.reset: _on_tensors(_reset),
    torch.ops.laser.fold: _on_tensors(_fold),
    torch.ops.laser.folded_linear: _on_tensors(_folded_linear),
    torch.ops.laser.output_linear: _on_tensors(_output_linear),
    torch.ops.laser.linear: _on_tensors(_linear),
    # torch has formulas for attention on CUDA alone.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _on_tensors(_attention_on_cpu),
}
