"""How a tensor that backward needs is stored: in eight bits, in four, or as coefficients in a basis.

A codec is frozen and deterministic and knows nothing of autograd: what it encodes shares no storage with the value, so
that the value can be freed, and what it decodes has the value's very form. Tensors that are not floating are refused.

Groups of numbers that lie side by side in memory share a scale. Measured on the activations of trained models, groups
of 32 with a bfloat16 scale err less than groups of 128 with a float32 one, for 3 % more bytes: by a sixth on
normalised values, by two fifths on the input of a SwiGLU's last linear. bfloat16 has the range of float32, so that no
scale overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from laser_fx.errors import OptionError, PassError
from laser_fx.memory.joint import Form

__all__ = ["Codec", "Int4", "Int8", "LowRank"]

_CHUNK = {"cpu": 1 << 18}
"""Elements worked on at a time: what is between stays in a core's cache, and adds little to the peak of memory."""

_CHUNK_ELSEWHERE = 1 << 24


class Codec(Protocol):
    """A way of storing a tensor."""

    @property
    def name(self) -> str:
        """What a plan calls it."""

    @property
    def cost_key(self) -> tuple[object, ...]:
        """Equal for codecs that take the same time for values of the same form. It holds no tensor: tables keep it."""

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """What is kept of a value, in storages of its own."""

    def decode(self, parts: Sequence[Tensor], form: Form) -> Tensor:
        """A value like the one encoded: its shape, strides, dtype and device, its numbers as far as they are kept."""

    def bytes(self, form: Form) -> int:
        """Bytes of what `encode` makes of a value of this form."""


@dataclass(frozen=True)
class Int8:
    """Whole numbers from -127 to 127, and a scale for each group of numbers that lie side by side in memory.

    Of each number the error is at most 1/127 of the largest one in its group, and half of that except next to the
    largest number of the dtype. A group with a NaN or an infinity comes back as NaN. Parts: codes, int8, as many as
    the value has elements; scales, one a group, bfloat16, or float64 for a float64 value.

    Args:
        group: elements that share a scale.

    Raises:
        OptionError: ``group`` is below 1.

    >>> from laser_fx.memory.joint import form_of
    >>> codec, value = Int8(), torch.tensor([[0.5, -1.0], [0.0, 0.25]])
    >>> codec.decode(codec.encode(value), form_of(value, False)).sub(value).abs().max().item() < 1 / 127
    True
    >>> codec.bytes(form_of(torch.empty(64, 64), False)) / (64 * 64 * 4)
    0.265625
    """

    group: int = 32

    def __post_init__(self) -> None:
        _check_group(self.group)

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return "int8"

    @property
    def cost_key(self) -> tuple[object, ...]:
        """See `Codec`."""
        return self.name, self.group

    def encode(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and scales of a value of any shape and strides."""
        flat = _flat(value)
        codes = torch.empty_like(flat, dtype=torch.int8)
        scales = flat.new_empty(_groups(flat.numel(), self.group), dtype=_scale_dtype(flat.dtype))
        for span in _spans(flat.numel(), self.group, flat.device):
            levels = _quantise(flat[span.numbers].view(-1, span.width), scales[span.groups], 127)
            codes[span.numbers].view_as(levels).copy_(levels)
        return codes, scales

    def decode(self, parts: Sequence[Tensor], form: Form) -> Tensor:
        """The value again."""
        codes, scales = parts
        target = _Target(form)
        for span in _spans(codes.numel(), self.group, codes.device):
            rows = codes[span.numbers].view(-1, span.width)
            _scale(rows, scales[span.groups], target.flat[span.numbers].view_as(rows))
        return target.finished()

    def bytes(self, form: Form) -> int:
        """Bytes of codes and scales: 0.266 of a float32 value's."""
        count = _count(form)
        return count + _groups(count, self.group) * _scale_dtype(form.dtype).itemsize


@dataclass(frozen=True)
class Int4:
    """Whole numbers from -7 to 7, two in a byte, and a scale for each group, as in `Int8`.

    Of each number the error is at most 1/7 of the largest one in its group, and half of that except next to the
    largest number of the dtype. Parts: int8, the first half of the groups in the low and the second half in the high
    four bits; then the scales.

    Args:
        group: elements that share a scale.

    Raises:
        OptionError: ``group`` is below 1.

    >>> from laser_fx.memory.joint import form_of
    >>> codec, value = Int4(), torch.tensor([7.0, -3.0, 0.0])
    >>> codec.decode(codec.encode(value), form_of(value, False))
    tensor([ 7., -3.,  0.])
    >>> codec.bytes(form_of(torch.empty(64, 64), False)) / (64 * 64 * 4)
    0.140625
    """

    group: int = 32

    def __post_init__(self) -> None:
        _check_group(self.group)

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return "int4"

    @property
    def cost_key(self) -> tuple[object, ...]:
        """See `Codec`."""
        return self.name, self.group

    def encode(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Packed codes and scales of a value of any shape and strides."""
        flat = _flat(value)
        packed = flat.new_empty(self._half(flat.numel()), dtype=torch.int8)
        scales = flat.new_empty(_groups(flat.numel(), self.group), dtype=_scale_dtype(flat.dtype))
        low, high = self._halves(flat), self._halves(scales, scales=True)
        for span in _spans(packed.numel(), self.group, flat.device):
            levels = _quantise(low[0][span.numbers].view(-1, span.width), high[0][span.groups], 7)
            packed[span.numbers].view_as(levels).copy_(levels)
        for span in _spans(low[1].numel(), self.group, flat.device):
            levels = _quantise(low[1][span.numbers].view(-1, span.width), high[1][span.groups], 7)
            packed[span.numbers].view_as(levels).add_(levels.mul_(16).to(torch.int8))
        return packed, scales

    def decode(self, parts: Sequence[Tensor], form: Form) -> Tensor:
        """The value again."""
        packed, scales = parts
        target = _Target(form)
        numbers, factors = self._halves(target.flat), self._halves(scales, scales=True)
        for half, (values, of_group) in enumerate(zip(numbers, factors, strict=True)):
            for span in _spans(values.numel(), self.group, packed.device):
                rows = _nibbles(packed[span.numbers], half).view(-1, span.width)
                _scale(rows, of_group[span.groups], values[span.numbers].view_as(rows))
        return target.finished()

    def bytes(self, form: Form) -> int:
        """Bytes of packed codes and scales: 0.141 of a float32 value's."""
        count = _count(form)
        return self._half(count) + _groups(count, self.group) * _scale_dtype(form.dtype).itemsize

    def _half(self, count: int) -> int:
        """Numbers in the low four bits: whole groups."""
        return min(count, _groups(_groups(count, self.group), 2) * self.group)

    def _halves(self, flat: Tensor, *, scales: bool = False) -> tuple[Tensor, Tensor]:
        """What is in the low four bits, and what is in the high ones."""
        half = _groups(flat.numel(), 2) if scales else self._half(flat.numel())
        return flat[:half], flat[half:]


@dataclass(frozen=True, eq=False)
class LowRank:
    """Coefficients ``Z = (X − mean) Q`` of an activation X, (..., D), flattened to (N, D).

    Parts: what ``inner`` makes of Z, (N, k), or Z itself in the dtype of X; then Q, and the mean where there is one:
    these two are the tensors given, shared by all values that are encoded with them. Decoding reads parts alone.

    Args:
        q: basis, (D, k) float32, of orthonormal columns or zero ones.
        mean: (D,) float32, or None.
        inner: how Z is stored; None stores it as it is.

    >>> from laser_fx.memory.joint import form_of
    >>> basis = torch.eye(3)[:, :2]
    >>> codec, value = LowRank(basis), torch.tensor([[1.0, 2.0, 0.0]])
    >>> codec.decode(codec.encode(value), form_of(value, False))
    tensor([[1., 2., 0.]])
    """

    q: Tensor
    mean: Tensor | None = None
    inner: Codec | None = None

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return "lowrank" if self.inner is None else f"lowrank_{self.inner.name}"

    @property
    def cost_key(self) -> tuple[object, ...]:
        """See `Codec`."""
        return self.name, self.q.shape, self.mean is None

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """Coefficients as they are stored, the basis, and the mean."""
        with torch.no_grad():
            return self.store(self.coefficients(value), value.dtype)

    def coefficients(self, value: Tensor) -> Tensor:
        """``Z = (X − mean) Q``, (N, k) float32."""
        flat = value.detach().reshape(-1, value.shape[-1]).to(self.q.dtype)
        return flat @ self.q if self.mean is None else torch.addmm(-(self.mean @ self.q), flat, self.q)

    def store(self, z: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """`encode`, where the coefficients are at hand.

        Args:
            z: (N, k).
            dtype: of the activation.
        """
        z = z.to(dtype)
        kept = (z,) if self.inner is None else self.inner.encode(z)
        return (*kept, self.q) if self.mean is None else (*kept, self.q, self.mean)

    def decode(self, parts: Sequence[Tensor], form: Form) -> Tensor:
        """``X ≈ Z Qᵀ + mean``."""
        shared = 1 if self.mean is None else 2
        kept, (q, *mean) = parts[:-shared], parts[-shared:]
        with torch.no_grad():
            z = kept[0] if self.inner is None else self.inner.decode(kept, self._coefficients_form(form))
            z = z.to(q.dtype)
            made = torch.addmm(mean[0], z, q.mT) if mean else z @ q.mT
            return _placed(made.view(form.shape), form)

    def bytes(self, form: Form) -> int:
        """Bytes of the stored coefficients alone: basis and mean are shared by many values."""
        inside = self._coefficients_form(form)
        return math.prod(inside.shape) * inside.dtype.itemsize if self.inner is None else self.inner.bytes(inside)

    def _coefficients_form(self, form: Form) -> Form:
        rank = self.q.shape[1]
        shape = (math.prod(form.shape[:-1]), rank)
        return Form(shape, (max(rank, 1), 1), form.dtype, form.device, False)


class _Span(NamedTuple):
    """A run of whole groups.

    Args:
        numbers: where they are in the value.
        groups: where their scales are.
        width: elements of each group.
    """

    numbers: slice
    groups: slice
    width: int


def _check_group(group: int) -> None:
    if group < 1:
        raise OptionError(f"group is {group!r}", where="codec", fix="choose a whole number of at least 1")


def _groups(count: int, group: int) -> int:
    return -(-count // group)


def _spans(count: int, group: int, device: torch.device) -> Iterator[_Span]:
    """Chunks of whole groups, then the group that is left over."""
    at_once = max(_CHUNK.get(device.type, _CHUNK_ELSEWHERE) // group, 1)
    whole = count // group
    for first in range(0, whole, at_once):
        last = min(first + at_once, whole)
        yield _Span(slice(first * group, last * group), slice(first, last), group)
    if count % group:
        yield _Span(slice(whole * group, count), slice(whole, whole + 1), count % group)


def _quantise(rows: Tensor, scales: Tensor, levels: int) -> Tensor:
    """Whole numbers in [-levels, levels] for each row, in floating point; writes the scales."""
    work = rows.abs().to(_compute_dtype(rows.dtype))
    peak = work.amax(1)
    least, most = _limits(rows.dtype, levels)
    factor = (peak / levels).clamp_(least, most)
    scales.copy_(torch.where(peak.isfinite(), factor, torch.nan))
    torch.mul(rows, scales.to(work.dtype).reciprocal()[:, None], out=work)
    return work.round_().clamp_(-levels, levels)


def _scale(rows: Tensor, scales: Tensor, out: Tensor) -> None:
    """The numbers of whole ones and their scales."""
    factors = scales.to(_compute_dtype(out.dtype))[:, None]
    if factors.dtype == out.dtype:
        out.copy_(rows).mul_(factors)
    else:
        out.copy_(rows.to(factors.dtype).mul_(factors))


def _nibbles(packed: Tensor, half: int) -> Tensor:
    """The low four bits of each byte, or the high ones, as whole numbers from -7 to 7."""
    high = (packed + 8) >> 4
    return high if half else packed - (high << 4)


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scale_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.bfloat16


@cache
def _limits(dtype: torch.dtype, levels: int) -> tuple[float, float]:
    """Least and largest scale: its inverse is finite, and so is the largest number that is decoded with it."""
    stored = _scale_dtype(dtype)
    largest = torch.tensor(torch.finfo(dtype).max / levels, dtype=torch.float64).to(stored)
    if float(largest) * levels > torch.finfo(dtype).max:
        largest = torch.nextafter(largest, torch.zeros_like(largest))
    return torch.finfo(stored).tiny, float(largest)


def _count(form: Form) -> int:
    """Numbers that a value of this form has in memory: those of an expanded dimension are one."""
    dims = zip(form.shape, form.stride, strict=True)
    return math.prod(1 if _is_expanded(size, stride) else size for size, stride in dims)


def _is_expanded(size: int, stride: int) -> bool:
    return stride == 0 and size > 1


def _flat(value: Tensor) -> Tensor:
    """The numbers of a value in the order of its memory, without a copy where they lie side by side."""
    if not value.is_floating_point():
        raise PassError(f"a tensor of {value.dtype} is to be stored in few bits", where="laser_fx.memory.codecs")
    return _in_memory_order(value.detach()).reshape(-1)


def _in_memory_order(value: Tensor) -> Tensor:
    """A view with the dimensions by descending stride, each expanded one at size 1."""
    for dim, (size, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if _is_expanded(size, stride):
            value = value.narrow(dim, 0, 1)
    strides = value.stride()
    return value.permute(sorted(range(value.ndim), key=lambda dim: -strides[dim]))


class _Target:
    """A new value of a form, written through `flat` in the order of its memory."""

    def __init__(self, form: Form) -> None:
        self._value = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
        self._ordered = _in_memory_order(self._value)
        self._is_dense = self._ordered.is_contiguous()
        self.flat = self._ordered.view(-1) if self._is_dense else self._ordered.new_empty(self._ordered.numel())

    def finished(self) -> Tensor:
        """The value, once `flat` is written."""
        if not self._is_dense:
            self._ordered.copy_(self.flat.view(self._ordered.shape))
        return self._value


def _placed(value: Tensor, form: Form) -> Tensor:
    """A value in the strides and the dtype of a form."""
    value = value.to(form.dtype)
    if value.stride() == form.stride:
        return value
    made = torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
    source, target = value, made
    for dim, (size, stride) in enumerate(zip(form.shape, form.stride, strict=True)):
        if _is_expanded(size, stride):
            source, target = source.narrow(dim, 0, 1), target.narrow(dim, 0, 1)
    target.copy_(source)
    return made
