"""How a tensor that backward needs is stored.

A codec is frozen and deterministic and knows nothing of autograd: what it encodes shares no storage with the value, so
that the value can be freed, and what it decodes has the value's very form. Coefficients in a basis are here, whole
numbers of eight bits or four in `laser_fx.memory.few_bits`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from laser_fx.memory.joint import Form
from laser_fx.memory.memory_order import placed

__all__ = ["Codec", "LowRank", "rank_within"]


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
            return placed(made.view(form.shape), form)

    def bytes(self, form: Form) -> int:
        """Bytes of the stored coefficients alone: basis and mean are shared by many values."""
        inside = self._coefficients_form(form)
        return math.prod(inside.shape) * inside.dtype.itemsize if self.inner is None else self.inner.bytes(inside)

    def _coefficients_form(self, form: Form) -> Form:
        rank = self.q.shape[1]
        shape = (math.prod(form.shape[:-1]), rank)
        return Form(shape, (max(rank, 1), 1), form.dtype, form.device, False)


def rank_within(budget: int, form: Form, steps: int, inner: Codec | None = None) -> int:
    """The largest rank at which the coefficients of all steps and one basis fit in a number of bytes; 0 for none.

    Args:
        budget: bytes for one value of a body in one call.
        form: of the value at one step, (..., D).
        steps: how many steps are kept.
        inner: how the coefficients are stored.

    >>> form = Form((100, 64), (64, 1), torch.float32, torch.device("cpu"), False)
    >>> rank_within(100 * 64 * 4, form, steps=2)
    24
    """
    features = form.shape[-1]

    def fits(rank: int) -> bool:
        empty = torch.empty(features, rank, device="meta")
        return steps * LowRank(empty, None, inner).bytes(form) + empty.nbytes <= budget

    low, high = 0, features + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
