"""Plans that keep values in fewer bits: less memory, and gradients within a bound that is measured."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import OptionError
from laser_fx.memory.approximate import gradient_error
from laser_fx.memory.plan import Plan
from laser_fx.passes.calibrate import gradients
from laser_fx.zoo.trm import TRM, TRMConfig
from tests.births import Births

CONFIG = TRMConfig(
    seq_len=16, vocab_size=7, H_cycles=2, L_cycles=3, hidden_size=64, num_heads=2, halt_exploration_prob=0.0
)


@functools.cache
def compiled(memory: Any, **options: Any) -> tuple[CompiledModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = TRM(CONFIG).train()
    batch = {"inputs": torch.randint(1, 7, (4, 16)), "puzzle_identifiers": torch.zeros(4, dtype=torch.int64)}
    inputs = (module.initial_carry(batch), batch)
    return laser_fx.compile(module, inputs, options=laser_fx.Options.exact(memory=memory, **options)), batch


def plan_of(model: CompiledModel) -> Plan:
    assert model.plan is not None
    return model.plan


def loss_of(model: CompiledModel, batch: dict[str, Tensor]) -> Tensor:
    _, outputs = model(model.initial_carry(batch), batch)
    logits: Tensor = outputs["logits"]
    return logits.square().mean() + outputs["q_halt_logits"].square().mean()


@pytest.mark.parametrize("bound", [2e-2, 5e-2])
def test_the_least_approximate_plan_keeps_less_and_stays_within_its_bound(bound: float) -> None:
    exact, _ = compiled("min")
    made, _ = compiled("min", approximate=True, max_gradient_error=bound)
    error = plan_of(made).error
    assert plan_of(made).after < plan_of(exact).after
    assert error is not None
    assert 0.0 < error <= bound
    # Measured anew, against the gradients of the exact plan.
    found = gradients(made.program, made.graph_module)
    assert gradient_error(found, gradients(exact.program, exact.graph_module)) == pytest.approx(error, rel=0.1)


def test_every_value_in_fewer_bits_says_what_it_costs_by_itself() -> None:
    made, _ = compiled("min", approximate=True, max_gradient_error=5e-2)
    coded = [row for row in plan_of(made).rows if row.codec.startswith("int")]
    assert coded
    assert all(row.error and row.error <= 5e-2 and row.time > 0 for row in coded)
    assert "gradients off by" in str(plan_of(made))


def test_forward_is_eager_s_and_the_originals_are_freed() -> None:
    made, batch = compiled("min", approximate=True, max_gradient_error=5e-2)
    eager = loss_of(made._model, batch)
    with Births() as births:
        loss = loss_of(made, batch)
    assert torch.equal(loss, eager)
    outputs = 4 * (4 * 16 * (7 + 2 * 64) + 4 * 4) + 4 * 16 * 8 * 2  # logits, carry, halting, data
    assert births.alive() <= plan_of(made).after + 4 * outputs
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters() if parameter.grad is not None)


def test_a_report_of_an_approximate_plan_measures_laser() -> None:
    made, _ = compiled("min", approximate=True, max_gradient_error=5e-2)
    assert made.report().saved_bytes is not None


def test_a_plan_without_room_for_error_is_exact() -> None:
    made, _ = compiled("min", approximate=True, max_gradient_error=1e-9)
    exact, _ = compiled("min")
    assert plan_of(made).after == plan_of(exact).after
    assert plan_of(made).error == 0.0


def test_a_budget_that_no_plan_meets_says_what_the_least_is() -> None:
    with pytest.raises(OptionError, match=r"0\.\d+ is the least there is"):
        compiled(1e-4, approximate=True)


def test_a_smaller_budget_never_keeps_more() -> None:
    kept = []
    for memory in (0.02, 0.05, 0.1, 0.3, 0.6, 1.0):
        made, _ = compiled(memory)
        assert plan_of(made).fraction <= memory
        kept.append(plan_of(made).after)
    assert kept == sorted(kept)


def test_the_error_is_that_of_the_worst_gradient() -> None:
    exact = [torch.tensor([3.0, 4.0]), torch.tensor([1.0]), None, torch.zeros(2)]
    assert gradient_error(exact, exact) == 0.0
    assert gradient_error([torch.tensor([3.0, 4.5]), torch.tensor([1.0]), None, torch.zeros(2)], exact) == 0.1
    assert gradient_error([torch.full((2,), torch.nan), *exact[1:]], exact) == float("inf")
    assert gradient_error([None, *exact[1:]], exact) == float("inf")
    assert gradient_error([*exact[:3], torch.ones(2)], exact) > 1.0
    assert gradient_error([torch.ones(2)], [torch.zeros(2)]) == float("inf")


def test_a_gradient_that_is_rounding_alone_is_no_error() -> None:
    exact = [torch.tensor([3.0, 4.0]), torch.tensor([1e-8, 0.0])]
    assert gradient_error([exact[0], torch.tensor([0.0, 2e-8])], exact) == 0.0
    assert gradient_error([exact[0], torch.tensor([0.0, 1e-2])], exact) > 1.0
    assert gradient_error([exact[0], torch.tensor([0.0, torch.nan])], exact) == float("inf")


class Attention(nn.Module):
    """Its bias of keys has no gradient but rounding: softmax does not see what all scores of a row have in common."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = x + nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            x = nn.functional.layer_norm(x + self.down(nn.functional.gelu(self.up(x))), x.shape[-1:])
        return x


def test_a_bias_that_changes_nothing_does_not_keep_a_model_exact() -> None:
    torch.manual_seed(0)
    options = laser_fx.Options.exact(memory="min", approximate=True, max_gradient_error=5e-2)
    made = laser_fx.compile(Attention(), (torch.randn(4, 12, 32),), options=options)
    assert any(row.codec.startswith("int") for row in plan_of(made).rows)


def test_calibration_calls_no_hook_of_the_caller() -> None:
    module, called = Attention(), list[Tensor]()
    module.up.weight.register_hook(called.append)  # type: ignore[arg-type]
    options = laser_fx.Options.exact(memory="min", approximate=True, max_gradient_error=5e-2)
    made = laser_fx.compile(module, (torch.randn(4, 12, 32),), options=options)
    assert not called
    made(torch.randn(4, 12, 32)).square().mean().backward()
    assert len(called) == 1


@pytest.mark.parametrize(
    "options", [{"memory": "min", "approximate": True}, {"memory": "laser", "tracking": "segment"}]
)
def test_the_gradient_of_an_input_is_measured_too(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, x = Attention().requires_grad_(False), torch.randn(4, 12, 32, requires_grad=True)
    made = laser_fx.compile(module, (x,), options=laser_fx.Options.exact(**options))
    made(x).square().mean().backward()
    assert x.grad is not None
    found = gradients(made.program, made.graph_module)
    assert len(found) == 1
    assert found[0] is not None
    assert found[0].shape == x.shape


def test_another_batch_size_keeps_the_values_that_were_measured() -> None:
    made, _ = compiled("min", approximate=True, max_gradient_error=5e-2)
    before = {(row.segment, row.value): row.codec for row in plan_of(made).rows}
    batch = {"inputs": torch.randint(1, 7, (24, 16)), "puzzle_identifiers": torch.zeros(24, dtype=torch.int64)}
    loss_of(made, batch)
    after = {(row.segment, row.value): row.codec for row in plan_of(made).rows}
    assert after == before
