"""What is rewritten computes the same and is what a runtime fuses; what only looks alike stays."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import laser_fx
from laser_fx.export import OnnxModel
from laser_fx.export.translate import translate
from tests.export.files import operators


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            q, k, v = self.qkv(x).view(x.shape[0], 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, 16)
            x = F.rms_norm(x + self.out(mixed), (16,))
        return x


def test_keys_are_one_transpose_and_the_norm_has_a_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = _Block().eval(), torch.randn(3, 5, 16)
    file = laser_fx.compile(model, (x,), options=laser_fx.Options.exact()).to_onnx(tmp_path / "m.onnx")
    counted = operators(file.path)
    assert counted["Shape"] == counted["Reciprocal"] == 0
    assert counted["Div"] == counted["ReduceMean"] == 1
    with torch.no_grad():
        torch.testing.assert_close(OnnxModel(file.path)(x)["output"], model(x), atol=1e-6, rtol=1e-5)


def test_onnx_runtime_fuses_the_norm(tmp_path: Path) -> None:
    import onnxruntime

    x = torch.randn(3, 5, 16)
    file = laser_fx.compile(_Block().eval(), (x,), options=laser_fx.Options.exact()).to_onnx(tmp_path / "m.onnx")
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(str(file.path), settings, providers=["CPUExecutionProvider"])
    fused = operators(tmp_path / "fused.onnx")
    assert fused["SimplifiedLayerNormalization"] == 1
    assert fused["Pow"] == 0


def _operators_of(function: Any, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Counter[str]:
    graph = fx.symbolic_trace(function)
    mode = FakeTensorMode()
    for node, shape in zip(graph.graph.find_nodes(op="placeholder"), shapes, strict=True):
        node.meta["val"] = mode.from_tensor(torch.zeros(shape, dtype=dtype))
    model: ir.Model = translate(graph, 20)
    return Counter(node.op_type for node in model.graph.all_nodes())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x * torch.rsqrt(x.pow(3).mean(-1, keepdim=True) + 1e-5),),
        lambda x: (x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5),),
        lambda x: (x.abs() * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),),
    ],
    ids=["another power", "another dimension", "of another value"],
)
def test_what_is_no_norm_of_its_own_rows_keeps_its_reciprocal(function: Any) -> None:
    counted = _operators_of(function, (2, 3, 4))
    assert counted["Reciprocal"] == 1
    assert counted["Div"] == 0


def test_a_norm_in_double_stays_as_it_is() -> None:
    def norm(x: Tensor) -> tuple[Tensor]:
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),)

    assert _operators_of(norm, (2, 3, 4))["Div"] == 1
    assert _operators_of(norm, (2, 3, 4), dtype=torch.float64)["Div"] == 0
