"""Training: resuming changes nothing, the files appear whole, and the figures are of the file that was written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from laser_fx.errors import InputError
from laser_fx.zoo import train
from laser_fx.zoo.evaluate import Score, evaluate
from laser_fx.zoo.recipes import RECIPES, Recipe
from laser_fx.zoo.store import load_model
from laser_fx.zoo.tasks import Sudoku
from laser_fx.zoo.trainer import Trainer, loss
from laser_fx.zoo.trm import TRM, TRMConfig

TINY = Recipe(
    task=Sudoku(4, givens=8),
    config=TRMConfig(seq_len=16, vocab_size=5, H_cycles=2, L_cycles=2, hidden_size=16, num_heads=2),
    batches=6,
    test_steps=2,
    pool=12,
    batch_size=4,
    warmup=2,
    muon_rate=4e-3,
)
PLAIN = replace(TINY, muon_rate=None)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.model.state_dict(), **{f"averaged.{name}": value for name, value in trainer.averaged.items()}}


@pytest.mark.parametrize("recipe", [TINY, PLAIN], ids=["muon", "adamw"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(recipe: Recipe, tmp_path: Path) -> None:
    whole, first = Trainer(recipe), Trainer(recipe)
    for _ in range(4):
        whole.train_batch()
    for _ in range(2):
        first.train_batch()
    first.save(tmp_path / "state")
    second = Trainer(recipe)
    second.resume(tmp_path / "state")
    for _ in range(2):
        second.train_batch()
    assert (second.batches, second.steps) == (whole.batches, whole.steps) == (4, 8)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())


def test_the_curriculum_comes_first() -> None:
    trainer = Trainer(replace(TINY, curriculum=((2, Sudoku(4, givens=15)),)))
    empty = []
    for _ in range(4):
        empty.append(int((trainer._next_batch()["inputs"] == 0).sum()))
        trainer.batches += 1
    assert empty == [4, 4, 32, 32]


def test_training_learns() -> None:
    trainer = Trainer(replace(TINY, batches=60, task=Sudoku(4, givens=14)))
    losses = [trainer.train_batch() for _ in range(30)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("damage", ["missing", "cut", "other recipe"])
def test_a_state_that_cannot_be_resumed_is_refused(damage: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    if damage != "missing":
        Trainer(TINY).save(state)
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:5000])
    recipe = replace(TINY, config=replace(TINY.config, hidden_size=32)) if damage == "other recipe" else TINY
    with pytest.raises(InputError, match="state"):
        Trainer(recipe).resume(state)


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest() -> None:
    model = TRM(TINY.config)
    adamw, muon = (
        {id(value) for group in optimiser.param_groups for value in group["params"]}
        for optimiser in TINY.optimisers(model)
    )
    assert muon == {id(value) for value in model.inner.L_level.parameters()}
    assert adamw | muon == {id(value) for value in model.parameters()}
    assert not adamw & muon


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = replace(TINY, batches=100, warmup=10)
    rates = [recipe.rate(batch, 2 * batch) for batch in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:70] == [1.0] * 60
    assert rates[70:] == sorted(rates[70:], reverse=True)
    assert 0.1 < rates[-1] < 0.2


def test_loss_is_cross_entropy_plus_weighted_halting() -> None:
    torch.manual_seed(0)
    logits, q_halt, labels = torch.randn(3, 4, 5), torch.randn(3), torch.randint(5, (3, 4))
    labels[0] = logits[0].argmax(dim=-1)
    cells = F.nll_loss(logits.log_softmax(-1).transpose(1, 2), labels)
    solved = -torch.where(torch.tensor([True, False, False]), q_halt.sigmoid(), 1 - q_halt.sigmoid()).log().mean()
    assert loss(logits, q_halt, labels, 0.5) == pytest.approx(float(cells + 0.5 * solved), rel=1e-5)


def test_a_puzzle_counts_only_when_every_cell_is_right() -> None:
    model, batch = TRM(TINY.config).eval(), TINY.task.batch(6, seed=0)
    answers = model.inner(model.inner.fresh_carry(6), batch)[1].argmax(dim=-1)
    batch["labels"] = answers.clone()
    batch["labels"][0, 3] += 1
    assert evaluate(model, batch, steps=1, rows=4) == Score(solved=5, count=6)


def test_wilson_interval_holds_at_the_ends() -> None:
    assert Score(0, 50).interval()[0] == pytest.approx(0.0, abs=1e-12)
    assert Score(50, 50).interval() == pytest.approx((0.92865, 1.0), abs=1e-4)
    assert Score(45, 50).interval() == pytest.approx((0.7864, 0.9565), abs=1e-4)


def test_the_command_trains_resumes_and_writes_model_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "sudoku", TINY)
    out, results = tmp_path / "model.safetensors", tmp_path / "figures.json"
    common = ["sudoku", "--out", str(out), "--puzzles", "10", "--every", "2"]
    assert train.main([*common, "--batches", "2"]) == 0
    assert train.main([*common, "--resume", "--results", str(results)]) == 0
    figures = json.loads(results.read_text(encoding="utf-8"))
    assert (figures["batches"], figures["puzzles"], figures["supervision_steps_at_test"]) == (6, 10, 2)
    low, high = figures["exact_wilson_95"]
    assert low <= figures["exact"] <= high
    stored = load_model(out)
    assert (stored.steps, stored.model.training) == (2, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figures.json",
        "model.safetensors",
        "model.safetensors.state",
    ]


def test_the_command_says_what_is_wrong_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "sudoku", replace(TINY, batches=1))
    assert train.main(["sudoku", "--out", str(tmp_path / "none.safetensors"), "--resume"]) == 1
    assert train.main(["sudoku", "--out", str(tmp_path / "no" / "folder.safetensors")]) == 1
