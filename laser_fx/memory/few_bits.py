"""Codecs that store whole numbers of eight bits or four, and a scale for each group of them.

Groups of numbers that lie side by side in memory share a scale. Measured on the activations of trained models, groups
of 32 with a bfloat16 scale err less than groups of 128 with a float32 one, for 3 % more bytes: by a sixth on
normalised values, by two fifths on the input of a SwiGLU's last linear. bfloat16 has the range of float32, so that no
scale overflows. Tensors that are not floating are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from laser_fx.errors import OptionError, PassError
from laser_fx.memory.joint import Form
from laser_fx.memory.memory_order import Target, count, flattened

__all__ = ["Int4", "Int8"]

_CHUNK = {"cpu": 1 << 18}
"""Elements worked on at a time: what is between stays in a core's cache, and adds little to the peak of memory."""

_CHUNK_ELSEWHERE = 1 << 24


@dataclass(frozen=True)
class _Grouped:
    """What both codecs are told: how many elements share a scale."""

    group: int = 32

    def __post_init__(self) -> None:
        if self.group < 1:
            raise OptionError(f"group is {self.group!r}", where="codec", fix="choose a whole number of at least 1")

    @property
    def cost_key(self) -> tuple[object, ...]:
        """See `laser_fx.memory.codecs.Codec`."""
        return type(self), self.group


@dataclass(frozen=True)
class Int8(_Grouped):
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

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return "int8"

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
        target = Target(form)
        for span in _spans(codes.numel(), self.group, codes.device):
            rows = codes[span.numbers].view(-1, span.width)
            _scale(rows, scales[span.groups], target.flat[span.numbers].view_as(rows))
        return target.finished()

    def bytes(self, form: Form) -> int:
        """Bytes of codes and scales: 0.266 of a float32 value's."""
        numbers = count(form)
        return numbers + _groups(numbers, self.group) * _scale_dtype(form.dtype).itemsize


@dataclass(frozen=True)
class Int4(_Grouped):
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

    @property
    def name(self) -> str:
        """What a plan calls it."""
        return "int4"

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
        target = Target(form)
        numbers, factors = self._halves(target.flat), self._halves(scales, scales=True)
        for half, (values, of_group) in enumerate(zip(numbers, factors, strict=True)):
            for span in _spans(values.numel(), self.group, packed.device):
                rows = _nibbles(packed[span.numbers], half).view(-1, span.width)
                _scale(rows, of_group[span.groups], values[span.numbers].view_as(rows))
        return target.finished()

    def bytes(self, form: Form) -> int:
        """Bytes of packed codes and scales: 0.141 of a float32 value's."""
        numbers = count(form)
        return self._half(numbers) + _groups(numbers, self.group) * _scale_dtype(form.dtype).itemsize

    def _half(self, count: int) -> int:
        """Numbers in the low four bits: whole groups."""
        return min(count, _groups(_groups(count, self.group), 2) * self.group)

    def _halves(self, flat: Tensor, *, scales: bool = False) -> tuple[Tensor, Tensor]:
        """What is in the low four bits, and what is in the high ones."""
        half = _groups(flat.numel(), 2) if scales else self._half(flat.numel())
        return flat[:half], flat[half:]


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


def _flat(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise PassError(f"a tensor of {value.dtype} is to be stored in few bits", where="laser_fx.memory.few_bits")
    return flattened(value)
