"""The model: published names and shapes, the recursion, halting, and what `torch.export` makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import Dim, ShapesCollection
from torch.utils import _pytree as pytree

from laser_fx.errors import OptionError
from laser_fx.zoo.trm import TRM, Batch, Solve, TRMConfig

ATTENTION = TRMConfig(seq_len=9, vocab_size=5, H_cycles=3, L_cycles=2, hidden_size=32, num_heads=2, halt_max_steps=4)
MLP = replace(ATTENTION, mlp_t=True, pos_encodings="none")
VARIANTS = {"attention": ATTENTION, "mlp_t": MLP, "rope2d": replace(ATTENTION, pos_encodings="rope2d")}
BOTH = replace(ATTENTION, pos_encodings="learned_rope2d")


def make(config: TRMConfig, training: bool = False, seed: int = 0) -> TRM:
    torch.manual_seed(seed)
    return TRM(config).train(training)


def a_batch(config: TRMConfig, rows: int = 3, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = torch.randint(config.vocab_size, (2, rows, config.seq_len), generator=generator)
    return {"inputs": inputs, "labels": labels, "puzzle_identifiers": torch.zeros(rows, dtype=torch.int64)}


def leaves_equal(left: object, right: object) -> bool:
    pairs = zip(pytree.tree_leaves(left), pytree.tree_leaves(right), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- names and shapes of models/recursive_reasoning/trm.py in SamsungSAILMontreal/TinyRecursiveModels


def published_shapes(config: TRMConfig) -> dict[str, tuple[int, ...]]:
    width, vocab = config.hidden_size, config.vocab_size
    shapes: dict[str, tuple[int, ...]] = {
        "inner.H_init": (width,),
        "inner.L_init": (width,),
        "inner.embed_tokens.embedding_weight": (vocab, width),
        "inner.lm_head.weight": (vocab, width),
        "inner.q_head.weight": (2, width),
        "inner.q_head.bias": (2,),
    }
    if config.puzzle_emb_ndim:
        shapes["inner.puzzle_emb.weights"] = (config.num_puzzle_identifiers, config.puzzle_emb_ndim)
    if config.pos_encodings == "learned":
        shapes["inner.embed_pos.embedding_weight"] = (config.tokens, width)
    for number in range(config.L_layers):
        block = f"inner.L_level.layers.{number}"
        if config.mlp_t:
            shapes[f"{block}.mlp_t.gate_up_proj.weight"] = (512, config.tokens)
            shapes[f"{block}.mlp_t.down_proj.weight"] = (config.tokens, 256)
        else:
            shapes[f"{block}.self_attn.qkv_proj.weight"] = (3 * width, width)
            shapes[f"{block}.self_attn.o_proj.weight"] = (width, width)
        shapes[f"{block}.mlp.gate_up_proj.weight"] = (512, width)
        shapes[f"{block}.mlp.down_proj.weight"] = (width, 256)
    return shapes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp_t": True, "pos_encodings": "none"},
        {"pos_encodings": "learned", "puzzle_emb_ndim": 32, "puzzle_emb_len": 2, "num_puzzle_identifiers": 7},
        {"puzzle_emb_ndim": 40, "puzzle_emb_len": 0, "L_layers": 3},
    ],
)
def test_state_dict_has_the_published_names_and_shapes(changes: dict[str, Any]) -> None:
    config = replace(ATTENTION, **changes)
    found = {name: tuple(value.shape) for name, value in TRM(config).state_dict().items()}
    assert found == published_shapes(config)


def test_swiglu_inner_width_is_the_published_multiple_of_256() -> None:
    config = TRMConfig(seq_len=81, vocab_size=11, hidden_size=512, L_layers=1)
    weights = TRM(config).state_dict()
    assert weights["inner.L_level.layers.0.mlp.gate_up_proj.weight"].shape == (2 * 1536, 512)


def test_puzzle_embedding_fills_whole_tokens_when_no_length_is_given() -> None:
    config = replace(ATTENTION, puzzle_emb_ndim=33, puzzle_emb_len=0)
    assert (config.prefix, config.tokens) == (2, 11)


# ---- the recursion


def reference_step(model: TRM, z_H: Tensor, z_L: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The recursion of the paper, written flat for a model with rotary positions."""
    inner, config = model.inner, model.config
    embedding = config.hidden_size**0.5 * inner.embed_tokens.embedding_weight[inputs]
    cos_sin = inner.rotary_emb() if inner.rotary_emb is not None else None
    for _ in range(config.H_cycles):
        for _ in range(config.L_cycles):
            z_L = inner.L_level(z_L, z_H + embedding, cos_sin)
        z_H = inner.L_level(z_H, z_L, cos_sin)
    return z_H, z_L


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_a_step_is_the_nested_recursion(config: TRMConfig) -> None:
    model, batch = make(config), a_batch(config)
    carry, outputs = model(model.initial_carry(batch), batch)
    fresh = model.inner.fresh_carry(3)
    z_H, z_L = reference_step(model, fresh.z_H, fresh.z_L, batch["inputs"])
    assert torch.equal(carry.inner_carry.z_H, z_H)
    assert torch.equal(carry.inner_carry.z_L, z_L)
    assert torch.equal(outputs["logits"], z_H @ model.inner.lm_head.weight.T)


@torch.no_grad()
def test_states_are_normalised_after_every_block() -> None:
    carry = make(ATTENTION).inner.fresh_carry(2)
    model = make(ATTENTION)
    after, _, _ = model.inner(carry, a_batch(ATTENTION, rows=2))
    assert after.z_H.square().mean(-1).sub(1).abs().max() < 1e-3


@torch.no_grad()
def test_rotary_attention_sees_relative_positions_only() -> None:
    attention = make(ATTENTION).inner.L_level.layers[0].self_attn
    cos, sin = make(replace(ATTENTION, seq_len=20)).inner.rotary_emb()
    x = torch.randn(2, 9, 32)
    near, far = attention(x, (cos[:9], sin[:9])), attention(x, (cos[11:], sin[11:]))
    assert torch.allclose(near, far, atol=1e-5)
    assert not torch.allclose(near, attention(x, None), atol=1e-3)


def test_rope2d_turns_rows_and_columns_apart() -> None:
    config = replace(ATTENTION, pos_encodings="rope2d", puzzle_emb_ndim=32, puzzle_emb_len=2)
    cos, sin = make(config).inner.rotary_emb()
    angles = torch.atan2(sin, cos).view(-1, 4, 4)
    assert torch.equal(angles[:2], torch.zeros(2, 4, 4))
    grid = angles[2:].view(3, 3, 4, 4)
    assert torch.equal(grid[1, 0, 0], grid[1, 2, 0])
    assert torch.equal(grid[0, 1, 1], grid[2, 1, 1])
    assert torch.equal(grid[1, 2, 0], grid[2, 1, 1])


@torch.no_grad()
def test_learned_rope2d_has_learned_positions_and_turns_by_row_and_column() -> None:
    model, rope2d, batch = make(BOTH), make(VARIANTS["rope2d"]), a_batch(BOTH)
    assert model.state_dict().keys() - rope2d.state_dict().keys() == {"inner.embed_pos.embedding_weight"}
    rope2d.load_state_dict(model.state_dict(), strict=False)
    model.inner.embed_pos.embedding_weight.zero_()
    model.inner.embed_tokens.embedding_weight.mul_(2**0.5)
    assert torch.allclose(Solve(model, 1)(batch["inputs"]), Solve(rope2d, 1)(batch["inputs"]), atol=1e-5)


@torch.no_grad()
def test_puzzle_embedding_tells_puzzles_apart_once_it_is_not_zero() -> None:
    config = replace(ATTENTION, puzzle_emb_ndim=32, puzzle_emb_len=1, num_puzzle_identifiers=2)
    model, batch = make(config), a_batch(config)
    batch["inputs"][:] = batch["inputs"][0]
    batch["puzzle_identifiers"] = torch.tensor([0, 0, 1])
    model.inner.puzzle_emb.weights[1] = 1.0
    _, outputs = model(model.initial_carry(batch), batch)
    assert torch.equal(outputs["logits"][0], outputs["logits"][1])
    assert not torch.equal(outputs["logits"][0], outputs["logits"][2])


@torch.no_grad()
def test_activations_have_the_forward_dtype_and_halting_logits_are_float32() -> None:
    config = replace(ATTENTION, forward_dtype="bfloat16")
    batch = a_batch(config)
    carry, outputs = make(config)(make(config).initial_carry(batch), batch)
    assert carry.inner_carry.z_H.dtype == outputs["logits"].dtype == torch.bfloat16
    assert outputs["q_halt_logits"].dtype == torch.float32


# ---- gradients


def gradients(config: TRMConfig) -> dict[str, Tensor]:
    model, batch = make(config, training=True), a_batch(config)
    _, logits, _ = model.inner(model.inner.fresh_carry(3), batch)
    logits.square().sum().backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def test_gradient_flows_through_the_last_cycle_only() -> None:
    """Equal to the gradient of a one-cycle model that starts from the state the earlier cycles lead to."""
    model, batch = make(ATTENTION, training=True), a_batch(ATTENTION)
    fresh = model.inner.fresh_carry(3)
    with torch.no_grad():
        early = make(replace(ATTENTION, H_cycles=2)).inner
        carry, _, _ = early(fresh, batch)
    last = make(replace(ATTENTION, H_cycles=1), training=True)
    _, logits, _ = last.inner(carry, batch)
    logits.square().sum().backward()
    expected = {name: value.grad for name, value in last.named_parameters() if value.grad is not None}
    found = gradients(ATTENTION)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_full_gradient_flows_through_every_cycle() -> None:
    last, full = gradients(ATTENTION), gradients(replace(ATTENTION, full_gradient=True))
    name = "inner.embed_tokens.embedding_weight"
    assert not torch.allclose(last[name], full[name], rtol=1e-2)


@torch.no_grad()
def test_full_gradient_changes_no_value() -> None:
    batch = a_batch(ATTENTION)
    one, other = make(ATTENTION), make(replace(ATTENTION, full_gradient=True))
    assert leaves_equal(one(one.initial_carry(batch), batch), other(other.initial_carry(batch), batch))


def test_carry_is_detached() -> None:
    model, batch = make(ATTENTION, training=True), a_batch(ATTENTION)
    carry, outputs = model(model.initial_carry(batch), batch)
    assert outputs["logits"].requires_grad
    assert not carry.inner_carry.z_H.requires_grad
    assert not carry.inner_carry.z_L.requires_grad


# ---- halting


@torch.no_grad()
def test_eval_mode_runs_every_sequence_to_the_last_step() -> None:
    model, batch = make(ATTENTION), a_batch(ATTENTION)
    model.inner.q_head.bias.fill_(9.0)
    carry = model.initial_carry(batch)
    for step in range(1, 5):
        carry, _ = model(carry, batch)
        assert carry.steps.tolist() == [step] * 3
        assert carry.halted.tolist() == [step == 4] * 3


@torch.no_grad()
def test_training_mode_halts_where_the_head_says_so() -> None:
    config = replace(ATTENTION, halt_exploration_prob=0.0)
    model, batch = make(config, training=True), a_batch(config)
    model.inner.q_head.weight.normal_()
    model.inner.q_head.bias.zero_()
    carry = model.initial_carry(batch)
    for _ in range(6):
        carry, outputs = model(carry, batch)
        assert torch.equal(carry.halted, (carry.steps >= 4) | (outputs["q_halt_logits"] > 0))


@torch.no_grad()
def test_exploration_keeps_sequences_going() -> None:
    config = replace(ATTENTION, halt_exploration_prob=1.0)
    model, batch = make(config, training=True), a_batch(config)
    model.inner.q_head.bias.fill_(9.0)
    carry, _ = model(model.initial_carry(batch), batch)
    assert not carry.halted.any()


@torch.no_grad()
def test_halted_rows_start_anew_with_the_new_batch_and_others_go_on() -> None:
    model, first, second = make(ATTENTION), a_batch(ATTENTION), a_batch(ATTENTION, seed=2)
    carry, _ = model(model.initial_carry(first), first)
    carry.halted[:] = torch.tensor([True, False, False])
    after, outputs = model(carry, second)
    _, fresh = model(model.initial_carry(second), second)
    assert after.steps.tolist() == [1, 2, 2]
    assert torch.equal(after.current_data["inputs"][0], second["inputs"][0])
    assert torch.equal(after.current_data["inputs"][1:], first["inputs"][1:])
    assert torch.allclose(outputs["logits"][0], fresh["logits"][0], atol=1e-6)
    assert not torch.allclose(outputs["logits"][1], fresh["logits"][1], atol=1e-3)


@torch.no_grad()
def test_target_of_continuing_is_the_next_steps_halting() -> None:
    config = replace(ATTENTION, no_ACT_continue=False, halt_exploration_prob=0.0)
    model, batch = make(config, training=True), a_batch(config)
    model.inner.q_head.weight.normal_()
    carry, outputs = model(model.initial_carry(batch), batch)
    _, _, (halt, go_on) = model.inner(carry.inner_carry, batch)
    assert torch.equal(outputs["target_q_continue"], torch.sigmoid(torch.maximum(halt, go_on)))


# ---- a whole solve


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_solve_equals_the_same_number_of_steps(config: TRMConfig) -> None:
    model, batch = make(config), a_batch(config)
    carry = model.initial_carry(batch)
    for _ in range(3):
        carry, outputs = model(carry, batch)
    assert torch.equal(Solve(model, 3)(batch["inputs"]), outputs["logits"])
    assert torch.equal(Solve(model, 3)(batch["inputs"], batch["puzzle_identifiers"]), outputs["logits"])


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_solve_can_return_the_last_steps_halting_logits(config: TRMConfig) -> None:
    model, batch = make(config), a_batch(config)
    torch.nn.init.normal_(model.inner.q_head.weight)  # zero at first: every logit would be its bias
    carry = model.initial_carry(batch)
    for _ in range(3):
        carry, outputs = model(carry, batch)
    solved = Solve(model, 3, halting=True)(batch["inputs"])
    assert solved.keys() == {"logits", "q_halt_logits"}
    assert torch.equal(solved["logits"], outputs["logits"])
    assert torch.equal(solved["q_halt_logits"], outputs["q_halt_logits"])
    assert solved["q_halt_logits"].unique().numel() == len(batch["inputs"])


def test_solve_makes_the_models_steps_by_default_and_refuses_none() -> None:
    model = make(ATTENTION)
    assert Solve(model).steps == 4
    with pytest.raises(OptionError, match=r"Solve\.steps"):
        Solve(model, 0)
    with pytest.raises(OptionError, match=r"Solve\.halting"):
        Solve(model, halting=1)  # type: ignore[arg-type]


def test_same_seed_makes_the_same_model_and_answer() -> None:
    batch = a_batch(ATTENTION)
    one, other = make(ATTENTION, seed=3), make(ATTENTION, seed=3)
    assert leaves_equal(one.state_dict(), other.state_dict())
    assert torch.equal(Solve(one)(batch["inputs"]), Solve(other)(batch["inputs"]))


# ---- capture


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("config", [ATTENTION, MLP], ids=["attention", "mlp_t"])
def test_a_step_exports_with_a_dynamic_batch(config: TRMConfig, training: bool) -> None:
    model, batch = make(config, training), a_batch(config)
    carry, size = model.initial_carry(batch), Dim("batch")
    shapes = ShapesCollection()
    for leaf in pytree.tree_leaves((carry, batch)):
        shapes[leaf] = {0: size}
    with torch.set_grad_enabled(training):
        program = torch.export.export(model, (carry, batch), dynamic_shapes=shapes, strict=False)
        other = a_batch(config, rows=5)
        start = model.initial_carry(other)
        torch.manual_seed(4)
        expected = model(start, other)
        torch.manual_seed(4)
        assert leaves_equal(program.module()(start, other), expected)


@pytest.mark.parametrize("config", [ATTENTION, MLP], ids=["attention", "mlp_t"])
@torch.no_grad()
def test_a_solve_exports_with_a_dynamic_batch(config: TRMConfig) -> None:
    solve = Solve(make(config), 2).eval()
    shapes = {"inputs": {0: Dim("batch")}}
    program = torch.export.export(solve, (a_batch(config)["inputs"],), dynamic_shapes=shapes, strict=False)
    other = a_batch(config, rows=6)["inputs"]
    assert torch.equal(program.module()(other), solve(other))


@torch.no_grad()
def test_a_float32_step_is_captured_without_casts_in_the_loop() -> None:
    solve = Solve(make(ATTENTION), 2).eval()
    program = torch.export.export(solve, (a_batch(ATTENTION)["inputs"],), strict=False)
    assert not any(node.target is torch.ops.aten.to.dtype for node in program.graph.nodes)


# ---- options


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"L_cycles": 0}, "TRMConfig.L_cycles"),
        ({"hidden_size": 30}, "TRMConfig.hidden_size"),
        ({"pos_encodings": "alibi"}, "TRMConfig.pos_encodings"),
        ({"pos_encodings": "rope2d", "seq_len": 10}, "TRMConfig.seq_len"),
        ({"pos_encodings": "learned_rope2d", "num_heads": 16}, "TRMConfig.hidden_size"),
        ({"forward_dtype": "int8"}, "TRMConfig.forward_dtype"),
        ({"expansion": float("nan")}, "TRMConfig.expansion"),
        ({"halt_exploration_prob": 1.5}, "TRMConfig.halt_exploration_prob"),
        ({"puzzle_emb_ndim": 100, "puzzle_emb_len": 1}, "TRMConfig.puzzle_emb_ndim"),
        ({"mlp_t": 1}, "TRMConfig.mlp_t"),
    ],
)
def test_options_out_of_range_are_refused_by_name(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(OptionError, match=names):
        replace(ATTENTION, **changes)


def test_config_from_a_dict_refuses_unknown_and_missing_fields() -> None:
    with pytest.raises(OptionError, match="H_layers is no field"):
        TRMConfig.from_dict({"seq_len": 4, "vocab_size": 3, "H_layers": 0})
    with pytest.raises(OptionError, match="vocab_size is missing"):
        TRMConfig.from_dict({"seq_len": 4})
