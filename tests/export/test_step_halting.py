"""The form `step` halts as the rolled file does, and what is done leaves; a step that is too coarse runs again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laser_fx
from laser_fx.errors import ExportError, InputError, OptionError
from laser_fx.export import OnnxModel, to_onnx
from tests.export.halting_programs import EXTRAS, halting, inputs_for
from tests.passes.test_measure_frozen import calibration, frozen
from tests.small import Contractive, low_rank

Pair = tuple[OnnxModel, OnnxModel]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    known: dict[Any, Pair] = {}

    def make(per: str, **options: Any) -> Pair:
        key = (per, *sorted(options.items()))
        if key not in known:
            folder = tmp_path_factory.mktemp("halting")
            for form in ("step", "rolled"):
                to_onnx(halting(**options), folder / f"{form}.onnx", form=form, halt="halt_logits", halt_per=per)
            known[key] = OnnxModel(folder / "step.onnx"), OnnxModel(folder / "rolled.onnx")
        return known[key]

    return make


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [(1,), (2, 4, 3), (6, 1, 1, 5, 2), (9, 9), (3, 3, 3)])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_it_halts_as_the_rolled_file_does(written: Callable[..., Pair], per: str, steps: tuple[int, ...]) -> None:
    ours, theirs = written(per)
    inputs = inputs_for(*steps)
    for options in ({}, {"depth": 3}, {"halt": False}, {"halt": -0.5, "depth": 8}):
        assert_same(ours(*inputs, **options), theirs(*inputs, **options))
        np.testing.assert_array_equal(ours.steps_taken, theirs.steps_taken)


def test_each_example_answers_as_by_itself_in_its_own_place(written: Callable[..., Pair]) -> None:
    ours, _ = written("example")
    inputs = inputs_for(6, 1, 1, 5, 2)
    together = ours(*inputs)
    assert ours.steps_taken.tolist() == [6, 1, 1, 5, 2]
    for row in range(5):
        assert_same({k: v[row : row + 1] for k, v in together.items()}, ours(*(x[row : row + 1] for x in inputs)))


@pytest.mark.parametrize("extra", ["third", "last but one"])
def test_rows_of_earlier_steps_are_kept(tmp_path: Path, extra: str) -> None:
    made = halting(extra=extra)
    to_onnx(made, tmp_path / "step.onnx", form="step", halt="halt_logits", halt_per="example")
    to_onnx(made, tmp_path / "rolled.onnx", verify=False)
    ours, theirs = OnnxModel(tmp_path / "step.onnx"), OnnxModel(tmp_path / "rolled.onnx")
    inputs = inputs_for(6, 1, 4, 5, 2)
    answers = ours(*inputs)
    least = 3 if extra == "third" else 2
    assert ours.steps_taken.tolist() == [max(least, steps) for steps in (6, 1, 4, 5, 2)]
    for row, steps in enumerate(ours.steps_taken.tolist()):
        alone = theirs(*(x[row : row + 1] for x in inputs), depth=steps)
        assert_same({name: value[row : row + 1] for name, value in answers.items()}, alone)


def test_the_batch_becomes_smaller(written: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = written("example")
    seen: list[int] = []
    session = ours._session.sessions["step"]

    class Watched:
        def run(self, names: Any, feed: Any, *rest: Any) -> Any:
            seen.append(len(feed["loop_0/z"]))
            return session.run(names, feed, *rest)

    monkeypatch.setitem(ours._session.sessions, "step", Watched())
    ours(*inputs_for(4, 1, 1, 3))
    assert seen == [4, 2, 2, 1]


def test_a_stream_says_who_is_done(written: Callable[..., Pair]) -> None:
    ours, theirs = written("example")
    inputs = inputs_for(2, 4, 1)
    for made in ours.stream(*inputs):
        assert made.done.tolist() == [made.number >= 2, made.number >= 4, True]
        assert_same(made.answers, theirs(*inputs, depth=made.number))
    assert made.number == 4


@pytest.mark.parametrize("options", [{"extra": "all"}, {"extra": "collected total"}, {"dynamic": False}])
def test_rows_that_nobody_knows_do_not_leave(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ExportError):
        to_onnx(halting(**options), tmp_path / "m.onnx", form="step", halt="halt_logits", halt_per="example")
    assert not list(tmp_path.iterdir())


def test_a_coupled_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(laser_fx.errors.LaserError):
        to_onnx(halting(couples=True), tmp_path / "m.onnx", form="step", halt="halt_logits", halt_per="example")
    assert not list(tmp_path.iterdir())


def test_halting_of_an_output_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no output"):
        to_onnx(halting(), tmp_path / "m.onnx", form="step", halt="q")
    assert set(EXTRAS) >= {"third"}


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, OnnxModel, OnnxModel]:
    """A program with random bases, its file, and the exact one's."""
    folder = tmp_path_factory.mktemp("frozen")
    model, x = Contractive(), low_rank(24, 32)
    compiled = frozen(model, x, found=calibration(model, x, objective="activation"))
    with torch.no_grad():
        compiled(x)
    exact = laser_fx.compile(model, (x,), options=laser_fx.Options.exact())
    compiled.to_onnx(folder / "frozen.onnx", form="step")
    exact.to_onnx(folder / "exact.onnx", form="step")
    return compiled, x, OnnxModel(folder / "frozen.onnx"), OnnxModel(folder / "exact.onnx")


def test_no_step_runs_again_unasked(coarse: Any) -> None:
    compiled, x, model, _ = coarse
    with torch.no_grad():
        expected = compiled(x)
    torch.testing.assert_close(next(iter(model(x).values())), expected, atol=1e-4, rtol=1e-4)
    assert model.replays == 0
    assert {stats.shape[-1] for stats in model.stats.values()} == {5}


def test_a_step_below_the_fidelity_runs_again_exactly(coarse: Any) -> None:
    _, x, model, exact = coarse
    answers = model(x, fidelity=1.0)
    assert model.replays == model.steps_taken == 6
    assert_same(answers, exact(x))
    least = [float(np.stack([stats[t, 0] for stats in model.stats.values()]).min()) for t in range(6)]
    model(x, fidelity=1e-6)
    assert model.replays == 0
    assert all(value < 1 for value in least)


def test_the_threshold_parts_the_steps(coarse: Any) -> None:
    _, x, model, _ = coarse
    first = min(float(stats[0, 0]) for stats in (model(x), model.stats)[1].values())
    model(x, fidelity=first * 1.0001)
    assert model.replays >= 1
    for wrong in (0.0, 1.1, float("nan")):
        with pytest.raises(OptionError, match="fidelity"):
            model(x, fidelity=wrong)


def test_weights_of_both_steps_are_stored_once(coarse: Any) -> None:
    _, _, model, _ = coarse
    roles = {part.role for part in model.metadata.step.parts}
    assert {"exact", "weights"} <= roles
    weights = next(part for part in model.metadata.step.parts if part.role == "weights")
    assert (model.path.parent / weights.file).stat().st_size >= 32 * 32 * 4


def test_an_exact_file_has_no_fidelity(coarse: Any) -> None:
    _, x, _, exact = coarse
    with pytest.raises(InputError, match="tracks nothing"):
        exact(x, fidelity=0.9)
