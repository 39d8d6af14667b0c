"""Training under an exact memory plan: the same numbers as eager, in less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import InputError, OptionError
from laser_fx.memory import costs, saved_bytes
from laser_fx.memory.segment import Segment
from laser_fx.options import Options
from laser_fx.passes.cut_segments import segments_of
from laser_fx.zoo.families.recurrent import UnrolledGRU, UnrolledLSTM
from laser_fx.zoo.families.universal import UniversalTransformer
from laser_fx.zoo.trm import TRM, TRMConfig
from tests.births import Births
from tests.families.registry import FAMILIES
from tests.small import model, same, step, trm_batch

PLANS: tuple[Any, ...] = ("lean", 0.5)


def compiled(module: nn.Module, *inputs: Any, memory: Any = "lean") -> CompiledModel:
    made = laser_fx.compile(module.train(), options=Options.exact(memory=memory))
    made(*inputs)
    return made


def train(run: Callable[..., Any], module: nn.Module, *inputs: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """The output and the gradients of the sum of its squares, of the inputs and the parameters."""
    torch.manual_seed(7)
    module.zero_grad()
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = run(*leaves)
    output.float().square().sum().backward()
    grads = [t.grad for t in (*leaves, *module.parameters())]
    return output.detach(), [g if g is None else g.clone() for g in grads]


def check(module: nn.Module, *inputs: Tensor, memory: Any = "lean", error: float = 1e-6) -> CompiledModel:
    made = compiled(module, *inputs, memory=memory)
    assert segments_of(made.graph_module)
    expected, expected_grads = train(module, module, *inputs)
    for _ in range(2):
        output, grads = train(made, module, *inputs)
        assert torch.equal(output, expected)
        assert [g is None for g in grads] == [g is None for g in expected_grads]
        pairs = [(g, e) for g, e in zip(grads, expected_grads, strict=True) if g is not None and e is not None]
        assert pairs
        assert max(relative(g, e) for g, e in pairs) <= error
    return made


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value - expected).norm() / expected.norm().clamp(min=1e-12))


def trm(full_gradient: bool = False, **changes: Any) -> TRM:
    config = TRMConfig(
        9, 7, **{"H_cycles": 2, "L_cycles": 3, "L_layers": 1, "hidden_size": 32, "num_heads": 2, **changes}
    )
    return TRM(TRMConfig(**{**vars(config), "full_gradient": full_gradient, "halt_exploration_prob": 0.0})).train()


def train_trm(run: Callable[..., Any], module: TRM, batch: Any) -> tuple[Tensor, list[Tensor | None]]:
    module.zero_grad()
    _, outputs = run(module.initial_carry(batch), batch)
    outputs["logits"].square().mean().backward()
    return outputs["logits"].detach(), [None if p.grad is None else p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("memory", ["lean", 0.2])
@pytest.mark.parametrize("full_gradient", [False, True])
def test_a_trm_trains_as_in_eager(full_gradient: bool, memory: Any) -> None:
    module, batch = trm(full_gradient), trm_batch(3)
    made = compiled(module, module.initial_carry(batch), batch, memory=memory)
    assert same(train_trm(made, module, batch), train_trm(module, module, batch))
    # No gradient reaches the halting head from the logits: it stays None, as in eager.
    assert module.inner.q_head.weight.grad is None
    other = trm_batch(5)
    program = made.program
    assert same(train_trm(made, module, other), train_trm(module, module, other))
    assert made.program is program


@pytest.mark.parametrize("memory", PLANS)
def test_a_universal_transformer_trains_as_in_eager(memory: Any) -> None:
    check(UniversalTransformer(embedding="learned"), torch.randn(2, 5, 16), memory=memory)


@pytest.mark.parametrize("memory", ["lean", 1.0])
@pytest.mark.parametrize("family", [UnrolledGRU, UnrolledLSTM])
def test_a_recurrent_net_trains_as_in_eager(family: type[nn.Module], memory: Any) -> None:
    module = family()
    run = module if family is UnrolledGRU else _first(module)
    check(run, torch.randn(3, 6, 6), memory=memory)


def _first(module: nn.Module) -> nn.Module:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = module

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.net(x)[0]
            return hidden

    return First()


@pytest.mark.parametrize("name", ["raft", "albert", "huginn_random", "descent", "supervision_2_last"])
def test_families_train_as_in_eager(name: str) -> None:
    family = FAMILIES[name]
    torch.manual_seed(0)
    module = family.model().train()
    inputs = family.inputs(3)
    made = compiled(module, *inputs)

    def gradients(run: Callable[..., Any]) -> list[Tensor | None]:
        torch.manual_seed(5)
        module.zero_grad()
        results = [t for t in pytree.tree_leaves(run(*inputs)) if isinstance(t, Tensor) and t.requires_grad]
        torch.stack([t.square().mean() for t in results]).sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in module.parameters()]

    for grad, expected in zip(gradients(made), gradients(module), strict=True):
        assert (grad is None) == (expected is None)
        assert grad is None or expected is None or relative(grad, expected) <= 1e-6


def dropping() -> nn.Module:
    def dropping(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(4):
            z = torch.tanh(self.a(self.dropout(torch.relu(self.b(z)))) + x)
        return z

    return model(dropping)


@pytest.mark.parametrize("memory", ["lean", 0.6])
def test_dropout_draws_the_numbers_of_eager_and_backward_sees_the_same(memory: Any) -> None:
    check(dropping(), torch.randn(3, 8), memory=memory)


def test_dropout_leaves_the_generator_where_eager_leaves_it() -> None:
    module, x = dropping(), torch.randn(3, 8)
    made = compiled(module, x)
    train(module, module, x)
    expected = torch.rand(())
    train(made, module, x)
    assert torch.equal(torch.rand(()), expected)


def test_frozen_weights_get_no_gradient() -> None:
    module = dropping()
    module.a.weight.requires_grad_(False)
    check(module, torch.randn(3, 8))
    assert module.a.weight.grad is None


def test_weights_that_are_frozen_later_are_seen() -> None:
    module, x = dropping(), torch.randn(3, 8)
    made = compiled(module, x)
    train(made, module, x)
    module.b.weight.requires_grad_(False)
    assert same(train(made, module, x), train(module, module, x))


def test_a_carry_that_starts_without_a_gradient_gets_one_at_later_steps() -> None:
    def from_zeros(self: Any, x: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(4):
            z = step(self, z, self.b(x))
        return z

    check(model(from_zeros), torch.randn(3, 8))


def test_a_carry_of_numbers_that_no_gradient_reaches_is_carried() -> None:
    def counting(self: Any, x: Tensor) -> Tensor:
        z, count = x, torch.zeros(x.shape[0], dtype=torch.int64)
        for _ in range(4):
            z = step(self, z, x) * (1 + count)[:, None].to(x.dtype)
            count = count + 1
        return z

    check(model(counting), torch.randn(3, 8), memory="lean")


@pytest.mark.parametrize("memory", ["lean", 0.5])
def test_autocast_trains_as_in_eager(memory: Any) -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        made = check(module, x, memory=memory, error=1e-2)
    assert made.program.mode.autocast is torch.bfloat16


def test_a_batch_of_another_size_is_cut_anew() -> None:
    module = UniversalTransformer()
    made = compiled(module, torch.randn(2, 5, 16))
    for size in (7, 3, 1):
        x = torch.randn(size, 5, 16)
        assert same(train(made, module, x), train(module, module, x))


def test_a_gradient_that_is_one_number_expanded_is_taken() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    made = compiled(module, x)
    module.zero_grad()
    made(x).sum().backward()
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    module(x).sum().backward()
    assert same(grads, [p.grad for p in module.parameters() if p.grad is not None])


def test_a_graph_can_be_run_backward_twice() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    made = compiled(module, x)
    loss = made(x).square().sum()
    parameters = list(module.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert same(first, torch.autograd.grad(loss, parameters))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, parameters)


def test_a_second_derivative_is_refused_with_the_way_out() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    loss = compiled(module, x)(x).square().sum()
    with pytest.raises(InputError, match="create_graph") as raised:
        torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
    assert "memory=None" in str(raised.value.fix)


def test_a_weight_that_changes_before_backward_is_refused_as_in_eager() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    loss = compiled(module, x)(x).square().sum()
    with torch.no_grad():
        next(p for p in module.parameters() if p.ndim == 2).mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_not_kept_is_freed_and_all_of_it_after_backward() -> None:
    """What operators made and what still lives is what the plan says: the originals are gone."""
    module, batch = trm(), trm_batch(3)

    def births(run: Callable[..., Any]) -> tuple[int, int]:
        with Births() as births:
            _, outputs = run(module.initial_carry(batch), batch)
        during = births.alive()
        outputs["logits"].sum().backward()
        del outputs, _
        return during, births.alive()

    made = compiled(module, module.initial_carry(batch), batch, memory=0.2)
    module.zero_grad()
    eager, after_eager = births(module)
    during, after = births(made)
    assert during <= 0.3 * eager
    assert after <= after_eager


def held(run: Callable[[], object], module: nn.Module, *others: Tensor) -> int:
    return saved_bytes(run, exclude=[*module.buffers(), *others])


def test_a_smaller_budget_never_keeps_more() -> None:
    module, batch = trm(full_gradient=True), trm_batch(3)
    carry = module.initial_carry(batch)
    given = (carry.inner_carry.z_H, carry.inner_carry.z_L, carry.halted, carry.steps, *batch.values())

    def count(run: Callable[..., Any]) -> int:
        return held(lambda: run(carry, batch), module, *given)

    eager = count(module)
    previous = 2 * eager
    for memory in (1.0, 0.7, 0.45, 0.3, 0.15):
        made = compiled(module, carry, batch, memory=memory)
        plan = made.plan
        assert plan is not None
        assert plan.fraction <= memory
        assert count(made) <= min(previous, 1.05 * memory * eager)
        previous = count(made)


@pytest.fixture
def _stated_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of operators by their bytes and floating-point operations: the same however busy the machine is."""
    monkeypatch.setattr(costs, "_table", {})
    monkeypatch.setattr(costs, "_can_run", lambda target, forms: False)


@pytest.mark.usefixtures("_stated_times")
def test_lean_keeps_less_and_makes_no_product_again() -> None:
    module, batch = trm(hidden_size=128), trm_batch(3)
    made = compiled(module, module.initial_carry(batch), batch)
    assert made.plan is not None
    assert made.plan.fraction < 0.65
    again = [row.operator for row in made.plan.rows if row.codec == "recompute"]
    assert again
    assert not [name for name in again if "mm" in name or "attention" in name]


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    module, batch = trm(), trm_batch(3)
    carry = module.initial_carry(batch)
    with pytest.raises(OptionError, match="keep at least") as raised:
        compiled(module, carry, batch, memory=1e-4)
    least = float(str(raised.value.fix).split()[3].rstrip(","))
    assert compiled(module, carry, batch, memory=least).plan is not None


def test_the_plan_counts_what_is_held() -> None:
    module, x = UniversalTransformer(), torch.randn(3, 5, 16)
    for memory in ("lean", 0.4):
        made = compiled(module, x, memory=memory)
        plan = made.plan
        assert plan is not None
        assert plan.before == held(partial(module, x), module, x)
        # The plan counts a carry at every step; the first one is the input, which lives anyway.
        kept = held(partial(made, x), module, x)
        assert kept <= plan.after <= 1.05 * kept


def test_a_loop_that_was_written_as_one_trains_as_in_eager() -> None:
    def written(self: Any, x: Tensor) -> Tensor:
        def body(_: Any, z: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            z = step(self, z, x + row)
            return z, torch.sigmoid(self.b(z))

        z, outputs = laser_fx.loop(body, x, 6, per_step=(self.rows,), collect=True)
        return z + outputs.sum(0)

    check(model(written), torch.randn(3, 8))


def test_a_report_and_a_copy_are_made_of_a_planned_model() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    made = compiled(module, x)
    assert made.report().options.memory == "lean"
    twin = copy.deepcopy(made)
    assert same(train(twin, twin, x), train(made, module, x))


def test_other_options_share_what_was_captured() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    made = compiled(module, x, memory=None).with_options(Options.exact(memory="lean"))
    assert same(train(made, module, x), train(module, module, x))
    assert made.plan is not None


def test_without_a_budget_there_is_no_plan() -> None:
    assert compiled(UniversalTransformer(), torch.randn(2, 5, 16), memory=None).plan is None


def test_evaluation_keeps_nothing_and_runs_no_segment() -> None:
    module, x = UniversalTransformer(), torch.randn(2, 5, 16)
    made = compiled(module, x)
    with torch.no_grad():
        made(x)
    assert not any(isinstance(part, Segment) for part in made.graph_module.modules())


def test_hooks_on_saved_tensors_see_all_that_is_kept() -> None:
    module, batch = trm(), trm_batch(3)
    made = compiled(module, module.initial_carry(batch), batch)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        hooked = train_trm(made, module, batch)
    assert same(hooked, train_trm(module, module, batch))
