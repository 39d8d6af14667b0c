from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import laser_fx
from laser_fx.errors import ExportError
from tests.export.test_structured import operators
from tests.small import WIDTH, exact, model, step


def unrolled(noise: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = step(self, z, x) * noise(z)
        return z

    return forward


def structured(noise: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        return laser_fx.loop(lambda i, z: step(self, z, x) * noise(z), x, 3)

    return forward


def outside(noise: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        return noise(laser_fx.loop(lambda i, z: step(self, z, x), x, 3))

    return forward


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand_like": torch.rand_like,
    "randn": lambda z: z + torch.randn(WIDTH),
    "bernoulli": lambda z: torch.bernoulli(z.sigmoid()),
    "dropout": lambda z: F.dropout(z, 0.5, training=True),
}


@pytest.mark.parametrize(
    ("name", "place"), [*((name, structured) for name in DRAWS), ("randn", unrolled), ("dropout", outside)]
)
def test_a_draw_is_refused_by_name(name: str, place: Callable[..., Any], tmp_path: Path) -> None:
    compiled = exact(model(place(DRAWS[name])), torch.randn(3, WIDTH))
    with pytest.raises(ExportError, match=f"aten.{name}.*draws random numbers"):
        compiled.to_onnx(tmp_path / "m.onnx", form="unrolled")
    with pytest.raises(ExportError, match=f"aten.{name}.*draws random numbers") as raised:
        compiled.to_onnx(tmp_path / "m.onnx")
    assert raised.value.where.startswith(name)
    assert "test_randomness.py:" in raised.value.where
    assert "as an input" in raised.value.fix
    assert list(tmp_path.iterdir()) == []


def attention(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        heads = self.dropout(self.a(z)).reshape(-1, 1, 2, 4)
        z = torch.tanh(F.scaled_dot_product_attention(heads, heads, heads).reshape(-1, WIDTH) + x)
    return z


def test_what_draws_in_training_only_is_gone(tmp_path: Path) -> None:
    module = model(attention)
    file = exact(module, torch.randn(3, WIDTH)).to_onnx(tmp_path / "m.onnx")
    assert not {"Dropout", "RandomUniformLike", "RandomNormalLike", "Bernoulli"} & set(operators(file.path))
    training = laser_fx.compile(module.train(), (torch.randn(3, WIDTH),), options=laser_fx.Options.exact())
    assert training.to_onnx(tmp_path / "t.onnx").nodes == file.nodes
