from __future__ import annotations

import pytest
import torch

from laser_fx.memory.classes import CLASSES, foremost, operator_class

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (aten.linear.default, "linear"),
        (aten.convolution_backward.default, "linear"),
        (torch.Tensor.__matmul__, "linear"),
        (aten.scaled_dot_product_attention.default, "attention"),
        (aten._scaled_dot_product_flash_attention_for_cpu_backward.default, "attention"),
        (aten._softmax_backward_data.default, "attention"),
        (aten.native_layer_norm_backward.default, "norm"),
        (torch.nn.functional.rms_norm, "norm"),
        (aten.silu_backward.default, "elementwise"),
        (torch.Tensor.__rsub__, "elementwise"),
        (torch.Tensor.__iadd__, "elementwise"),
        (torch.nn.functional.dropout, "elementwise"),
        (aten.mul.Tensor, "elementwise"),
        (aten.sum.dim_IntList, "other"),
        (torch.nn.functional.embedding, "other"),
    ],
)
def test_operators_have_their_class(target: object, expected: str) -> None:
    assert operator_class(target) == expected
    assert expected in CLASSES


def test_linear_counts_only_where_nothing_else_saves() -> None:
    assert foremost(["linear", "linear"]) == "linear"
    assert foremost(["linear", "other"]) == "other"
    assert foremost([]) == "other"
