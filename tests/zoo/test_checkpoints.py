"""The trained models that are shipped: they load, they solve what they have never seen, and damage is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from laser_fx import zoo
from laser_fx.errors import InputError, OptionError
from laser_fx.zoo import checkpoints
from laser_fx.zoo.evaluate import evaluate
from laser_fx.zoo.recipes import RECIPES
from laser_fx.zoo.store import load_model, read, save_model
from laser_fx.zoo.tasks import is_held_out
from laser_fx.zoo.trm import TRM, Solve, TRMConfig

NAMES = ("attention", "sudoku")
FOLDER = Path(checkpoints.__file__).parent


def test_the_models_are_named() -> None:
    assert zoo.models() == NAMES
    assert set(RECIPES) == set(NAMES)


@pytest.mark.parametrize(("name", "bound"), [("attention", 0.95), ("sudoku", 0.95)])
def test_a_shipped_model_solves_puzzles_it_has_never_seen(name: str, bound: float) -> None:
    batch = zoo.held_out(name, 100, seed=1)
    assert is_held_out(batch["inputs"].numpy()).all()
    assert evaluate(zoo.load(name), batch, zoo.steps(name)).exact >= bound


@pytest.mark.parametrize(("name", "early"), [("attention", 0.9), ("sudoku", 0.9)])
@torch.no_grad()
def test_the_halting_head_of_a_shipped_model_knows_what_is_solved(name: str, early: float) -> None:
    batch = zoo.held_out(name, 100, seed=2)
    at_two = Solve(zoo.load(name), 2, halting=True)(batch["inputs"])
    solved = (at_two["logits"].argmax(-1) == batch["labels"]).all(-1)
    done = at_two["q_halt_logits"] > 0
    assert (done == solved).float().mean() >= early
    assert done.float().mean() >= early - 0.1  # most puzzles need two of eight steps


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_what_its_recipe_makes(name: str) -> None:
    model = zoo.load(name)
    assert model.config == RECIPES[name].config
    assert zoo.steps(name) == RECIPES[name].test_steps
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_one_model_attends_and_the_other_mixes_by_mlp() -> None:
    assert not zoo.load("attention").config.mlp_t
    assert zoo.load("sudoku").config.mlp_t


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) <= 6_000_000


def test_held_out_puzzles_are_those_of_the_seed() -> None:
    one, same, other = (zoo.held_out("sudoku", 3, seed)["inputs"] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("ask", [zoo.load, zoo.steps, zoo.task, lambda name: zoo.held_out(name, 1)])
def test_unknown_names_are_refused_with_the_known_ones(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(OptionError, match="choose from attention, sudoku"):
        ask("chess")


@pytest.mark.parametrize("size", [0, 7, 400, -100], ids=["empty", "no header", "half a header", "cut weights"])
def test_a_damaged_file_is_refused_by_path(size: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((FOLDER / "sudoku.safetensors").read_bytes()[:size])
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model(path)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    small = TRMConfig(seq_len=4, vocab_size=5, hidden_size=16, num_heads=2)
    wide = TRMConfig(seq_len=4, vocab_size=5, hidden_size=32, num_heads=2)
    save_model(path, wide, TRM(small).state_dict(), steps=1)
    with pytest.raises(InputError, match="size mismatch"):
        load_model(path)


def test_a_model_survives_its_file_up_to_float16(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    config = TRMConfig(seq_len=4, vocab_size=5, hidden_size=16, num_heads=2, mlp_t=True, pos_encodings="none")
    model = TRM(config)
    save_model(path, config, model.state_dict(), steps=3)
    stored = load_model(path)
    assert (stored.steps, stored.model.config) == (3, config)
    expected = {name: value.half().float() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, expected[name]) for name, value in stored.model.state_dict().items())
    assert {value.dtype for value in read(path)[0].values()} == {torch.float16}
