"""NaN and infinity in a training call: named where activations are compressed, as in eager elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from laser_fx.compiler import CompiledModel
from laser_fx.errors import NonFiniteError
from tests.small import Contractive, low_rank
from tests.training.loops import CONTRACTIVE, EXACT, UNIVERSAL, against_eager, compiled, compiled_task, gradients

NAN = float("nan")


def nan_in_the_input(module: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[1, 2, 3] = NAN
    return x


def nan_in_a_weight(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.block.down.weight[0, 0] = NAN
    return x


def overflow_in_the_loop(module: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        module.block.down.weight.mul_(1e30)
    return x


@pytest.mark.parametrize("spoil", [nan_in_the_input, nan_in_a_weight, overflow_in_the_loop])
@pytest.mark.parametrize("memory", ["lean", 0.3])
def test_an_exact_plan_gives_the_numbers_of_eager(memory: Any, spoil: Any) -> None:
    def recipe(run: Any, module: Any) -> Any:
        x = spoil(module, UNIVERSAL.batch(4))
        output = run(x)
        output.square().mean().backward()
        assert not output.isfinite().all()
        return output.detach(), gradients(module)

    against_eager(UNIVERSAL, memory, recipe, of_exact=EXACT)


class Growing(Contractive):
    """With a factor of 1e12 it leaves the range of float32 after three steps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        z = x
        for _ in range(self.trips):
            z = self.down(torch.nn.functional.silu(self.up(z))) * self.factor
        return z


@pytest.fixture
def compressed() -> CompiledModel:
    return compiled_task(CONTRACTIVE, "laser")


def test_an_input_is_named(compressed: CompiledModel) -> None:
    x = CONTRACTIVE.batch(4)
    x[1, 2, 3] = NAN
    with pytest.raises(NonFiniteError, match="1 of 4096 values are NaN") as raised:
        compressed(x)
    assert raised.value.where == "input x"


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_weight_is_named(compressed: CompiledModel, value: float) -> None:
    with torch.no_grad():
        compressed.up.weight[0, 0] = value
    with pytest.raises(NonFiniteError, match="1 of 3072 values are NaN or infinite") as raised:
        compressed(CONTRACTIVE.batch(4))
    assert raised.value.where == "weight up.weight"


def test_the_site_and_the_step_are_named_and_the_next_call_is_as_before() -> None:
    torch.manual_seed(0)
    module, x = Growing().train(), low_rank(4, 32, 32)
    made = compiled(module, "laser")
    made(x).sum().backward()
    expected = gradients(module)
    module.zero_grad()
    module.factor.fill_(1e12)
    with pytest.raises(NonFiniteError, match=r"became NaN at step [2-5]") as raised:
        made(x)
    assert str(raised.value.where).startswith("site loop_0:")
    module.factor.fill_(1.0)
    made(x).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(gradients(module), expected, strict=True) if a is not None)


def test_a_diverged_run_is_refused_at_the_step_that_diverged() -> None:
    made = compiled_task(CONTRACTIVE, "laser")
    optimiser = torch.optim.SGD(made.parameters(), lr=1e9)

    def steps() -> None:
        for _ in range(10):
            optimiser.zero_grad()
            CONTRACTIVE.loss(made, made, CONTRACTIVE.batch(4)).backward()
            optimiser.step()

    with pytest.raises(NonFiniteError, match="NaN"):
        steps()
