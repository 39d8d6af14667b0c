"""The accuracy study: arms change how a model is trained, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.accuracy import __main__ as command
from benchmarks.accuracy import recipes, records
from benchmarks.accuracy.aggregate import aggregate
from benchmarks.accuracy.arms import ARMS, CONTROLS, from_int8, to_int8
from benchmarks.accuracy.figure import draw
from benchmarks.accuracy.page import page
from benchmarks.accuracy.probe import bytes_kept, gradient_error, probe_batch
from benchmarks.accuracy.publish import FIGURES, PAGE, PICTURE
from benchmarks.accuracy.recipes import held_out, recipe_of
from benchmarks.accuracy.run import answers, pack, run, unpack
from laser_fx.options import Options
from laser_fx.zoo.evaluate import evaluate
from laser_fx.zoo.tasks import is_held_out
from laser_fx.zoo.trainer import Trainer


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of few puzzles."""
    small = {
        name: replace(recipe, batches=2, pool=40, batch_size=8, config=replace(recipe.config, hidden_size=16))
        for name, recipe in recipes.MODELS.items()
    }
    monkeypatch.setattr(recipes, "MODELS", small)
    monkeypatch.setattr("benchmarks.accuracy.run.held_out", lambda: held_out(20))
    monkeypatch.setattr("benchmarks.accuracy.run._RANKED_SEEDS", ())


@pytest.fixture
def worn(request: pytest.FixtureRequest, tiny: None) -> tuple[Any, Any, Any]:
    recipe = recipe_of("attention", 0)
    inner = Trainer(recipe).model.inner
    return ARMS[request.param].put_on(inner), inner, recipe


@cache
def tiny_run(model: str, arm: str, seed: int = 0) -> dict[str, Any]:
    """A run of the recipes that `tiny` makes: tests that use it ask for that fixture."""
    return run(model, arm, seed)


def test_a_seed_decides_weights_and_data_and_no_arm_has_a_say(tiny: None) -> None:
    found = [tiny_run("attention", arm) for arm in ("eager", "int8", "lean")]
    assert len({record["initial_weights"] for record in found}) == 1
    first, again = (Trainer(recipe_of("attention", 0)) for _ in range(2))
    for _ in range(2):
        mine, its = first._next_batch(), again._next_batch()
        assert all(torch.equal(mine[name], its[name]) for name in mine)
        first.batches = again.batches = first.batches + 1


def test_another_seed_has_other_weights_and_other_puzzles(tiny: None) -> None:
    first, other = (Trainer(recipe_of("attention", seed)) for seed in (0, 1))
    assert not torch.equal(first.model.inner.lm_head.weight, other.model.inner.lm_head.weight)
    assert not torch.equal(first._next_batch()["inputs"], other._next_batch()["inputs"])


def test_a_run_repeats_itself(tiny: None) -> None:
    assert run("attention", "int8", 0)["weights"] == tiny_run("attention", "int8")["weights"]


@pytest.mark.parametrize("model", list(recipes.MODELS))
def test_lean_with_eagers_products_ends_at_the_weights_of_eager(tiny: None, model: str) -> None:
    eager, lean = tiny_run(model, "eager"), tiny_run(model, "lean bitwise")
    assert lean["weights"] == eager["weights"]
    assert lean["plan_fraction"] < 0.8
    assert lean["gradient_trained"]["worst_relative_error"] == 0.0


def test_the_gradients_of_lean_are_those_of_eager_but_for_rounding(tiny: None) -> None:
    # Sums in another order: float32 rounds to 6e-8, and the loop adds some up.
    assert tiny_run("attention", "lean")["gradient_trained"]["worst_relative_error"] < 1e-5


@pytest.mark.parametrize("arm", ["int8", "nudged"])
def test_an_arm_that_computes_something_else_ends_elsewhere(tiny: None, arm: str) -> None:
    assert tiny_run("attention", arm)["weights"] != tiny_run("attention", "eager")["weights"]


@pytest.mark.parametrize("worn", ["int8"], indirect=True)
def test_int8_keeps_less_and_its_gradients_are_near_those_of_eager(worn: tuple[Any, Any, Any]) -> None:
    put_on, inner, recipe = worn
    batch = probe_batch(recipe)
    error = gradient_error(put_on, inner, recipe, batch)
    assert 1e-5 < error["worst_relative_error"] < 0.1
    assert bytes_kept(put_on, inner, recipe, batch)["fraction"] < 0.4


@pytest.mark.parametrize("worn", ["lean"], indirect=True)
def test_the_plan_of_an_arm_runs(worn: tuple[Any, Any, Any]) -> None:
    put_on, inner, recipe = worn
    kept = bytes_kept(put_on, inner, recipe, probe_batch(recipe))
    assert kept["fraction"] < 0.8
    assert put_on.plan is not None


@pytest.mark.parametrize("arm", ["laser 0.99", "pooled 0.99"])
def test_laser_tracks_bases_at_every_call_and_moves_gradients_a_little(tiny: None, arm: str) -> None:
    record = tiny_run("attention", arm)
    # Two batches of two supervision steps, of which the loop with gradients makes two steps each.
    assert {entry["steps"] for entry in record["sites"].values()} == {2 * 2 * 2}
    assert record["all_sites"]["fidelity"] >= 0.99
    assert 0 < record["gradient_trained"]["worst_relative_error"] < 0.2


def test_this_version_has_the_options_of_every_arm() -> None:
    made = [Options.exact(**arm.settings) for arm in ARMS.values() if arm.settings is not None]
    assert len(set(made)) == len(made) == len(ARMS) - len(CONTROLS) - 1  # int8 is no plan of ours


def test_int8_is_within_half_a_step_of_every_row() -> None:
    x = torch.randn(5, 7, 33) * torch.logspace(-3, 3, 7)[:, None]
    back = from_int8(to_int8(x))
    assert bool(((back - x).abs() <= x.abs().amax(-1, keepdim=True) / 127 * 0.5001).all())
    assert to_int8(x)[0].dtype is torch.int8


def test_int8_leaves_weights_integers_and_vectors_as_they_are() -> None:
    weight = torch.nn.Parameter(torch.ones(3, 4))
    for tensor in (weight, weight.t(), torch.ones(4), torch.ones(3, 4, dtype=torch.int64)):
        assert to_int8(tensor) is tensor


def test_a_row_of_zeros_stays_zero_in_int8() -> None:
    assert torch.equal(from_int8(to_int8(torch.zeros(2, 3))), torch.zeros(2, 3))


def test_held_out_puzzles_are_different_and_held_out() -> None:
    inputs = held_out(200)["inputs"]
    assert len(torch.unique(inputs, dim=0)) == 200
    assert bool(is_held_out(inputs.numpy()).all())


def test_recipes_keep_what_the_study_is_about() -> None:
    for recipe in recipes.MODELS.values():
        assert recipe.supervision_steps >= 2
        assert min(recipe.config.H_cycles, recipe.config.L_cycles) >= 2
    assert recipes.MODELS["sudoku"].config.mlp_t
    assert not recipes.MODELS["attention"].config.mlp_t
    assert recipe_of("attention", 0, full_gradient=True).config.full_gradient


def test_answers_are_counted_as_by_the_zoo(tiny: None) -> None:
    trainer, batch = Trainer(recipe_of("attention", 0)), held_out(30)
    batch["labels"] = answers_of(trainer, batch)  # every other puzzle is right
    right = answers(trainer.averaged_model(), batch, 2, rows=7)
    assert int(right.sum()) == evaluate(trainer.averaged_model(), batch, 2).solved == 15
    assert unpack(pack(right), 30) == right.tolist()


def answers_of(trainer: Trainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    from laser_fx.zoo.trm import Solve

    with torch.no_grad():
        given = Solve(trainer.averaged_model(), 2)(batch["inputs"]).argmax(dim=-1)
    given[::2, 0] += 1
    return given


def test_a_run_that_has_a_record_is_not_made_again(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.jsonl"
    arguments = ["--models", "sudoku", "--arms", "eager", "int8", "--records", str(path), "--no-report", "--seeds"]
    command.main([*arguments, "0"])
    first = path.read_text()
    assert len(records.load(path)) == 2
    command.main([*arguments, "0", "1"])
    assert path.read_text().startswith(first)
    assert sorted(map(records.key_of, records.load(path))) == [
        ("sudoku", a, s) for a in ("eager", "int8") for s in (0, 1)
    ]
    assert capsys.readouterr().err.count("exact") == 4


def test_no_run_begins_when_the_time_is_up(tiny: None, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    command.main(["--minutes", "0", "--records", str(path), "--no-report"])
    assert not path.exists()


def test_records_of_another_recipe_or_arm_do_not_count(tiny: None, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    record = {"model": "sudoku", "arm": "int8", "seed": 0, "config": records.config_hash("sudoku", "int8")}
    for kept in (record, {**record, "seed": 1, "config": "of another recipe"}, {**record, "arm": "gone"}):
        records.append(path, kept)
    assert list(records.current(records.load(path))) == [("sudoku", "int8", 0)]
    assert not records.current(records.load(path), full_gradient=True)


def made_up(model: str, arm: str, seed: int, right: list[bool]) -> dict[str, Any]:
    return {
        "model": model,
        "arm": arm,
        "seed": seed,
        "solved": sum(right),
        "count": len(right),
        "answers": pack(torch.tensor(right)),
        "weights": f"{arm}{seed}",
        "untrained": {"solved": 0, "count": len(right)},
        "ranks_untrained": {},
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "commit": "abc",
        "environment": {},
    }


def test_figures_compare_the_seeds_that_both_arms_have(tmp_path: Path) -> None:
    def right(first_wrong: int) -> list[bool]:
        return [at >= first_wrong for at in range(100)]

    runs = [made_up("sudoku", "eager", seed, right(10 + seed)) for seed in range(4)]
    runs += [made_up("sudoku", "nudged", seed, right(11 + 2 * seed)) for seed in range(1, 5)]
    figures = json.loads(json.dumps(aggregate({records.key_of(record): record for record in runs})))
    against = figures["models"]["sudoku"]["arms"]["nudged"]["against_eager"]
    assert against["seeds"] == [1, 2, 3]
    assert against["mean"] == pytest.approx(-0.03)  # 2, 3 and 4 puzzles of 100
    assert against["mcnemar_pooled"]["only_eager"] == 9
    assert against["verdict"] == "cannot tell" if against["difference"] >= 0.05 else "worse"
    assert "−3.00" in page(figures)
    draw(figures, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_page_is_what_the_figures_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(FIGURES.read_text(encoding="utf-8")))
    assert PICTURE.exists()


def test_the_figures_are_what_the_records_say() -> None:
    figures = aggregate(records.current(records.load(records.RECORDS)))
    assert json.loads(json.dumps(figures)) == json.loads(FIGURES.read_text(encoding="utf-8"))
