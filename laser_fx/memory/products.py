"""Matrix products of backward, by the fastest kernel that this machine has.

On the CPU torch multiplies float32 matrices with MKL, whose kernels for processors of other makers than Intel may run
at less than half of the speed of oneDNN's, which torch brings along too. Both compute in float32; they sum in different
orders, so that results differ by rounding. Which of them is faster is measured once for every size.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from laser_fx.memory.stopwatch import noise, seconds

__all__ = ["onednn_linear", "onednn_product", "use_fastest"]

aten = torch.ops.aten

_LEAST = 1 << 22
"""Multiply-adds from which on a product is worth a choice: below, the call costs as much as the work."""
_CLEARLY = 0.8
"""Share of the time of torch's kernel that the other one may take: nearer ones would be chosen by noise."""


def onednn_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``: (N, D) and (D, F) float32 on the CPU, with any strides, to (N, F).

    >>> if torch.backends.mkldnn.is_available():
    ...     assert torch.allclose(onednn_product(torch.ones(2, 3), torch.ones(3, 4)), torch.full((2, 4), 3.0))
    """
    result: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")
    return result


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, by oneDNN where it can: float32 on the CPU, without gradients."""
    if not (_fits(x) and _fits(weight)) or torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


def use_fastest(graph: fx.Graph) -> None:
    """Replace every product of a graph by `onednn_product` where that is clearly faster here."""
    for node in graph.find_nodes(op="call_function", target=aten.mm.default):
        if is_faster(node):
            node.target = onednn_product


def is_faster(node: fx.Node) -> bool:
    """Whether `onednn_product` clearly beats torch's kernel for a product."""
    if node.target is not aten.mm.default:
        return False
    left, right = (source.meta.get("val") for source in (node.all_input_nodes[0], node.all_input_nodes[-1]))
    if left is None or right is None or not (_fits(left) and _fits(right)):
        return False
    sizes = (left.shape[0], left.shape[1], right.shape[1])
    return sizes[0] * sizes[1] * sizes[2] >= _LEAST and _wins(
        sizes, _is_turned(left), _is_turned(right), torch.get_num_threads()
    )


def _fits(value: Tensor) -> bool:
    return torch.backends.mkldnn.is_available() and value.device.type == "cpu" and value.dtype == torch.float32


def _is_turned(value: Tensor) -> bool:
    """Whether columns are contiguous instead of rows."""
    return value.stride(0) == 1 and value.stride(1) != 1


@cache
def _wins(sizes: tuple[int, int, int], turned_left: bool, turned_right: bool, threads: int) -> bool:
    """Measured with so many threads as there are; another number is another race."""
    left, right = _matrix(sizes[0], sizes[1], turned_left), _matrix(sizes[1], sizes[2], turned_right)
    return seconds(lambda: onednn_product(left, right)) < _CLEARLY * seconds(lambda: torch.mm(left, right))


def _matrix(rows: int, columns: int, turned: bool) -> Tensor:
    numbers = noise(rows * columns)
    return numbers.view(columns, rows).t() if turned else numbers.view(rows, columns)
