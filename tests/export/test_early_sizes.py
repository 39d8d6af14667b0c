"""A size that an input and a loop's result have in common is read from the input: the loop cannot wait for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.small import WIDTH, exact, model, step


def start_state_of_the_batch(self: Any, x: Tensor) -> Tensor:
    z = self.start.expand(x.shape[0], WIDTH).clone()
    for _ in range(4):
        z = torch.tanh(self.a(z))
    return z + x


def first_state_beside_the_last(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    z = y = self.start.expand(x.shape[0], WIDTH).clone()
    for _ in range(4):
        z = torch.tanh(self.a(z))
    return torch.cat([z, y], -1), x


def loop_after_loop(self: Any, x: Tensor) -> Tensor:
    y = z = self.start.expand(x.shape[0], WIDTH).clone()
    for _ in range(3):
        z = step(self, z, x)
    y = y.reshape(x.shape[0], 2, -1).transpose(1, 2).reshape(x.shape[0], -1) + z
    for _ in range(4):
        y = torch.relu(self.b(y)) - z
    return y + z.sum() + x


def size_in_the_body(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        y = self.start.expand(x.shape[0], WIDTH).clone()
        for _ in range(2):
            y = torch.tanh(self.b(y) + z)
        z = step(self, z, y)
    return z


CASES = (start_state_of_the_batch, first_state_beside_the_last, loop_after_loop, size_in_the_body)


@pytest.mark.parametrize("forward", CASES)
def test_a_size_on_both_sides_of_a_loop(forward: Callable[..., Any], tmp_path: Path) -> None:
    with torch.no_grad():
        compiled = exact(model(forward), torch.randn(3, WIDTH))
    assert compiled.loops
    verification = compiled.to_onnx(tmp_path / "m.onnx").verification
    assert verification is not None
    assert "another batch size" in verification.runs
