"""The small models of other families compute what their papers say, where torch or arithmetic can tell."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from laser_fx.zoo import families as zoo
from laser_fx.zoo.trm import TRM, Solve, TRMConfig

CONFIG = TRMConfig(seq_len=4, vocab_size=5, H_cycles=2, L_cycles=2, L_layers=1, hidden_size=8, num_heads=2)
TOKENS = torch.tensor([[1, 2, 3, 4], [4, 3, 2, 1]])


def test_the_gru_is_torchs() -> None:
    model, whole = zoo.UnrolledGRU(), nn.GRU(6, 8, batch_first=True)
    whole.load_state_dict({f"{name}_l0": value for name, value in model.cell.state_dict().items()})
    x = torch.randn(2, 5, 6)
    torch.testing.assert_close(model(x), whole(x)[0])


def test_the_lstm_is_torchs() -> None:
    model, whole = zoo.UnrolledLSTM(), nn.LSTM(6, 8, batch_first=True)
    with torch.no_grad():
        whole.weight_ih_l0.copy_(model.input.weight)
        whole.bias_ih_l0.copy_(model.input.bias)
        whole.weight_hh_l0.copy_(model.recurrent.weight)
        whole.bias_hh_l0.zero_()
    x = torch.randn(2, 5, 6)
    hidden, cell = model(x)
    torch.testing.assert_close(hidden, whole(x)[0])
    torch.testing.assert_close(cell, whole(x)[1][1][0])


def test_hrm_has_the_gradients_of_one_step() -> None:
    torch.manual_seed(0)
    short, long = zoo.HRM(cycles=1, inner_cycles=1), zoo.HRM(cycles=3, inner_cycles=3)
    long.load_state_dict(short.state_dict())
    injected = long.embed(TOKENS).detach()
    with torch.no_grad():
        z_H, z_L = long.H_init.expand_as(injected), long.L_init.expand_as(injected)
        for cycle in range(3):
            for _ in range(3 if cycle < 2 else 2):
                z_L = long.L_level(z_L, z_H + injected)
            z_H = long.H_level(z_H, z_L) if cycle < 2 else z_H
    long(TOKENS).sum().backward()
    found = long.L_level.blocks[0].up.weight.grad
    long.zero_grad()
    long.head(long.H_level(z_H, long.L_level(z_L, z_H + injected))).sum().backward()
    torch.testing.assert_close(found, long.L_level.blocks[0].up.weight.grad)


def test_a_single_latent_is_updated_h_times_l_plus_one() -> None:
    model = zoo.SingleLatent(CONFIG)
    calls = count_calls(model.net)
    model(TOKENS)
    assert len(calls) == 2 * 3


def test_many_latents_are_updated_once_a_cycle_each_and_then_the_answer() -> None:
    model = zoo.ManyLatents(CONFIG)
    calls = count_calls(model.net)
    model(TOKENS)
    assert len(calls) == 2 * (2 + 1)


def count_calls(module: nn.Module) -> list[None]:
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return calls


@pytest.mark.parametrize(("full_gradient", "reaches"), [(True, True), (False, False)])
def test_gradients_reach_the_first_cycle_only_where_they_are_asked_for(full_gradient: bool, reaches: bool) -> None:
    config = TRMConfig(
        seq_len=4, vocab_size=5, L_cycles=2, hidden_size=8, num_heads=2, L_layers=1, full_gradient=full_gradient
    )
    model = zoo.ManyLatents(config)
    start = model.init.clone().requires_grad_()
    torch.func.functional_call(model, {"init": start}, (TOKENS,)).sum().backward()
    assert (start.grad is not None) == reaches


def test_deep_supervision_ends_where_a_solve_does() -> None:
    trm = TRM(CONFIG).eval()
    carry, answers = zoo.DeepSupervision(trm, steps=3)(TOKENS)
    assert torch.equal(answers[-1], Solve(trm, steps=3)(TOKENS))
    assert not torch.equal(answers[0], answers[-1])
    assert not carry.z_H.requires_grad


def test_the_step_embedding_tells_steps_apart() -> None:
    model = zoo.UniversalTransformer(steps=2)
    swapped = zoo.UniversalTransformer(steps=2)
    swapped.load_state_dict(model.state_dict())
    swapped.step_embedding = model.step_embedding.flip(0)
    x = torch.randn(2, 3, 16)
    assert not torch.equal(model(x), swapped(x))


@pytest.mark.parametrize(("bias", "updates"), [(20.0, 1), (-20.0, 4)])
def test_a_token_that_halts_is_updated_no_more(bias: float, updates: int) -> None:
    model = zoo.AdaptiveUniversalTransformer(steps=4).eval()
    nn.init.constant_(model.halt.bias, bias)
    x = torch.randn(2, 3, 16)
    average, cost = model(x)
    remainder = cost - updates
    assert ((remainder >= 0) & (remainder <= 1)).all()
    if updates == 1:  # all of the weight lies on the first state
        torch.testing.assert_close(average, model.block(x + model.step_embedding[0]))


def test_huginn_draws_its_state_from_the_callers_seed() -> None:
    model = zoo.Huginn().eval()

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(TOKENS)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


@pytest.mark.parametrize("model", [zoo.LoopedGPT(), zoo.Huginn()])
def test_causal_models_do_not_see_later_tokens(model: nn.Module) -> None:
    model.eval()
    state = (torch.zeros(2, 4, 16),) if isinstance(model, zoo.Huginn) else ()
    changed = TOKENS.clone()
    changed[:, 3] = 0
    before, after = model(TOKENS, *state), model(changed, *state)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3], after[:, 3])


def test_dead_cells_stay_dead() -> None:
    grid = torch.zeros(1, 6, 7, 7)
    grid[:, :, 3, 3] = 1.0
    grown = zoo.CellularAutomaton(steps=1)(grid)
    assert grown[:, :, 1:6, 1:6].abs().sum() > 0
    grown[:, :, 2:5, 2:5] = 0
    assert not grown.any()


def test_random_updates_can_be_kept_out_of_evaluation() -> None:
    model = zoo.CellularAutomaton(always_random=False)
    grid = torch.rand(2, 6, 5, 5)
    assert not torch.equal(model(grid), model(grid))
    assert torch.equal(model.eval()(grid), model(grid))


def test_unrolled_descent_lowers_its_objective() -> None:
    y = torch.randn(4, 6)

    @torch.no_grad()
    def objective(steps: int) -> float:
        torch.manual_seed(0)
        model = zoo.UnrolledDescent(steps=steps)
        z = model(y)
        # The threshold is step size times λ.
        weight = float(model.threshold / model.step_size)
        return float(0.5 * (z @ model.dictionary.T - y).square().sum() + weight * z.abs().sum())

    values = [objective(steps) for steps in (1, 5, 50)]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]


def test_one_step_size_for_all_equals_equal_ones() -> None:
    one, each = zoo.UnrolledDescent(), zoo.UnrolledDescent(per_step=True)
    each.dictionary = one.dictionary
    y = torch.randn(4, 6)
    assert torch.equal(one(y), each(y))


def test_residuals_are_those_of_the_iterates() -> None:
    model = zoo.UnrolledEquilibrium(iterations=2, damping=1.0)
    x = torch.randn(3, 8)
    z, residuals = model(x)
    first = model.norm(torch.relu(model.state(torch.zeros_like(x)) + model.input(x)))
    torch.testing.assert_close(residuals[0], first.norm(dim=-1))
    torch.testing.assert_close(residuals[1], (z - first).norm(dim=-1))


def test_raft_looks_correlations_up_where_the_flow_points() -> None:
    model = zoo.RAFT(radius=0)
    features = torch.randn(1, 8, 6, 6)
    volume = model._correlations(features, features)
    seen: list[torch.Tensor] = []
    model.motion.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    pixels = torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="xy")).unsqueeze(0)
    model._motion(volume, pixels, torch.zeros_like(pixels))
    torch.testing.assert_close(seen[0][:, 0], features.square().sum(1) / 8**0.5)


def test_tied_parameters_and_a_repeated_module_are_one_model() -> None:
    tied, repeated = zoo.TiedParameters(), zoo.RepeatedModule()
    repeated.layers[0].load_state_dict(tied.layers[0].state_dict())
    assert len(list(tied.parameters())) == len(list(repeated.parameters()))
    x = torch.randn(2, 3, 16)
    assert torch.equal(tied(x), repeated(x))
