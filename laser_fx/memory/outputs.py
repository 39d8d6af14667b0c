"""Tensors as a custom autograd function may return them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

__all__ = ["distinct"]


def distinct(outputs: Sequence[Tensor], differentiable: Sequence[bool], others: Sequence[Tensor]) -> list[Tensor]:
    """One tensor for every output, which may be written into wherever that harms nothing.

    A value may be there as it is and detached. A view that such a function returns cannot be written into; where
    nobody else has its storage, it is returned as a tensor of its own.

    Args:
        outputs: what the function computed.
        differentiable: for each output whether a gradient reaches it.
        others: inputs, and what is kept. Somebody's backward may need them, so that writes have to be noticed: views of
            these stay views.
    """
    seen: set[int] = set()
    alone = _alone(outputs, others) if any(output._is_view() for output in outputs) else set()
    made = []
    for output, reached in zip(outputs, differentiable, strict=True):
        if reached and id(output) in alone:
            made.append(output.data)
        else:
            made.append(output if reached and id(output) not in seen else output.detach())
        seen.add(id(output))
    return made


def _alone(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> set[int]:
    """Outputs that are views, and whose storage no other tensor has."""
    tensors = {id(value): value for value in (*outputs, *others)}
    holders = Counter(_storage(value) for value in tensors.values())
    return {id(output) for output in outputs if output._is_view() and holders[_storage(output)] == 1}


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
