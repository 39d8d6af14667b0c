"""What the callback writes, where to, and how often; under transformers' own handler and Lightning's interface."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx import CompiledModel, Options
from laser_fx.alarms import reset_rate
from laser_fx.callbacks import LaserCallback, scalars
from laser_fx.errors import InputError, MissingDependencyError, OptionError
from laser_fx.memory.measure import saved_bytes
from tests.small import Contractive, low_rank


class Recorder:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.written.append((tag, value, step))

    def at(self, step: int) -> dict[str, float]:
        return {tag: value for tag, value, when in self.written if when == step}


def trained(x: Tensor | None = None, **options: Any) -> CompiledModel:
    """A model after one training step."""
    torch.manual_seed(0)
    compiled = laser_fx.compile(Contractive().train(), options=Options(**{"rank": 16, "fidelity": 0.9, **options}))
    compiled(low_rank(64, 32) if x is None else x).sum().backward()
    return compiled


@pytest.fixture(scope="module")
def by_laser() -> CompiledModel:
    return trained()


def test_a_training_step_is_written_site_by_site_and_as_a_whole(by_laser: CompiledModel) -> None:
    writer = Recorder()
    told = LaserCallback(by_laser, writer).step(7)
    assert writer.at(7) == told
    assert {step for _, _, step in writer.written} == {7}
    for key, steps in by_laser.latest_steps.items():
        site = key.replace(":", "/")
        used = [step for step in steps if not step.exact]
        assert told[f"laser_fx/fidelity/{site}"] == min(step.fidelity for step in used)
        assert told[f"laser_fx/rank/{site}"] == max(step.rank for step in used)
        assert told[f"laser_fx/reset_rate/{site}"] == reset_rate(steps)
    assert told["laser_fx/fidelity"] == min(v for tag, v in told.items() if tag.startswith("laser_fx/fidelity/"))


def test_bytes_are_those_of_x_and_of_what_stands_for_it(by_laser: CompiledModel) -> None:
    told = scalars(by_laser)
    steps = by_laser.latest_steps
    assert not any(step.exact for recorded in steps.values() for step in recorded)
    whole = [4 * site.rows * site.features * site.steps for site in by_laser.sites if site.key in steps]
    kept = [
        4 * (site.rows + site.features) * site.rank * site.steps  # type: ignore[operator]
        for site in by_laser.sites
        if site.key in steps
    ]
    assert (told["saved_bytes/sites_exact"], told["saved_bytes/sites"]) == (sum(whole), sum(kept))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bytes_of_another_dtype_are_those_that_are_saved(dtype: torch.dtype) -> None:
    module, x = Contractive(trips=3).train().to(dtype), low_rank(64, 32).to(dtype)
    compiled = laser_fx.compile(module, options=Options(rank=4, fidelity=0.9))
    less = saved_bytes(lambda: module(x), exclude=[x]) - saved_bytes(lambda: compiled(x), exclude=[x])
    told, report = scalars(compiled), compiled.report(measure=())
    assert told["saved_bytes/sites_exact"] - told["saved_bytes/sites"] == less > 0
    assert report.saved_bytes is not None
    assert report.saved_bytes.eager_sites == told["saved_bytes/sites_exact"]
    assert report.saved_bytes.laser_sites == told["saved_bytes/sites"]
    whole = sum(site.saved_share for site in report.sites)  # type: ignore[misc]
    assert whole == pytest.approx(report.saved_bytes.eager_sites / report.saved_bytes.eager)


def test_a_plan_writes_its_totals_and_follows_the_batch() -> None:
    compiled = trained(memory="min", forward="exact")
    first = scalars(compiled)
    assert first == {"saved_bytes/eager": compiled.plan.before, "saved_bytes/plan": compiled.plan.after}  # type: ignore[union-attr]
    compiled(low_rank(128, 32)).sum().backward()
    assert scalars(compiled)["saved_bytes/eager"] == 2 * first["saved_bytes/eager"]


def test_steps_in_between_and_sites_are_left_out(by_laser: CompiledModel) -> None:
    writer = Recorder()
    watch = LaserCallback(by_laser, writer, every=3, sites=False, prefix="run")
    told = [watch.step(step) for step in range(7)]
    assert [step for step, values in enumerate(told) if values] == [0, 3, 6]
    assert not any("loop_0" in tag for tag, _, _ in writer.written)
    assert all(tag.startswith("run/") for tag, _, _ in writer.written)


def test_an_evaluation_writes_no_bytes() -> None:
    compiled = laser_fx.compile(Contractive().eval(), options=Options(sites="all"))
    with torch.no_grad():
        compiled(torch.randn(8, 32))
    told = scalars(compiled)
    assert "fidelity/loop_0/up" in told
    assert not any(name.startswith("saved_bytes") for name in told)


def test_the_alarm_is_raised_above_the_bound_alone(by_laser: CompiledModel, caplog: pytest.LogCaptureFixture) -> None:
    worst = max(reset_rate(steps) for steps in by_laser.latest_steps.values())
    heard: list[tuple[str, float]] = []
    silent = LaserCallback(by_laser, Recorder(), reset_alarm=worst, on_alarm=lambda *site: heard.append(site))
    assert silent.step(0)["laser_fx/alarms"] == 0
    assert not heard
    wild = trained(torch.randn(64, 32), rank=2, fidelity=0.9999, reset_alarm=1.0)
    expected = {key: reset_rate(steps) for key, steps in wild.latest_steps.items() if reset_rate(steps) > 0.5}
    assert expected
    loud = LaserCallback(wild, Recorder(), on_alarm=lambda *site: heard.append(site))
    assert loud.step(0)["laser_fx/alarms"] == len(expected)
    assert dict(heard) == expected
    with caplog.at_level(logging.WARNING, "laser_fx"):
        logged = LaserCallback(wild, Recorder())
        logged.step(0), logged.step(1)
    told = [record.site for record in caplog.records if record.name == "laser_fx"]  # type: ignore[attr-defined]
    assert Counter(told) == Counter(expected.keys())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"every": 0}, OptionError, "every is 0"),
        ({"reset_alarm": 1.5}, OptionError, "reset_alarm is 1.5"),
        ({"compiled": nn.Linear(1, 1)}, InputError, "the model is a Linear"),
        ({"writer": object()}, InputError, "has no add_scalar"),
    ],
    ids=["every", "alarm", "model", "writer"],
)
def test_what_it_cannot_use_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LaserCallback(**given)


def test_no_model_and_no_call_are_said() -> None:
    with pytest.raises(InputError, match="there is no model to watch"):
        LaserCallback(writer=Recorder()).step(0)
    with pytest.raises(InputError, match="nothing is compiled yet"):
        LaserCallback(laser_fx.compile(Contractive()), Recorder()).step(0)


def test_tensorboard_is_asked_for_by_name(by_laser: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match="TensorBoard, which is missing") as caught:
        LaserCallback(by_laser).step(0)
    assert "laser-fx[tensorboard]" in str(caught.value.fix)


def test_tensorboard_reads_what_was_written(by_laser: CompiledModel, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = LaserCallback(by_laser)
    watch.add_scalars({"laser_fx/none": 0.0}, 0, str(tmp_path))
    told = watch.step(3)
    watch.writer.flush()
    read = EventAccumulator(str(tmp_path)).Reload()
    assert read.Tags()["scalars"] == ["laser_fx/none", *told]
    assert [event.step for event in read.Scalars("laser_fx/fidelity")] == [3]


class Wrapped(nn.Module):
    """A model around a compiled one, as trainers have it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


def test_transformers_calls_it_after_each_step(by_laser: CompiledModel, tmp_path: Path) -> None:
    from transformers.trainer_callback import CallbackHandler, TrainerControl, TrainerState

    writer = Recorder()
    callback = LaserCallback(writer=writer, every=2).trainer()
    handler = CallbackHandler([callback], Wrapped(by_laser), None, None, None)
    args = SimpleNamespace(output_dir=str(tmp_path))
    for step in range(1, 5):
        handler.on_step_end(args, TrainerState(global_step=step), TrainerControl())  # type: ignore[arg-type]
    assert sorted({step for _, _, step in writer.written}) == [2, 4]
    written = len(writer.written)
    other = TrainerState(global_step=6, is_world_process_zero=False)
    handler.on_step_end(args, other, TrainerControl())  # type: ignore[arg-type]
    assert len(writer.written) == written


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """Lightning's callback, as far as it is used: a class whose hooks take the trainer and the module."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = ModuleType("lightning.pytorch")
    module.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lightning.pytorch", module)
    return module.Callback  # type: ignore[no-any-return, attr-defined]


class Logger:
    def __init__(self) -> None:
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((metrics, step))


def test_lightnings_loggers_get_the_numbers(by_laser: CompiledModel, lightning: type) -> None:
    logger, other = Logger(), Logger()
    callback = LaserCallback(sites=False).lightning()
    assert isinstance(callback, lightning)
    trainer = SimpleNamespace(is_global_zero=True, global_step=5, loggers=[logger, other])
    callback.on_train_batch_end(trainer, Wrapped(by_laser), None, None, 4)  # type: ignore[attr-defined]
    assert logger.logged == other.logged == [(logger.logged[0][0], 5)]
    assert "laser_fx/fidelity" in logger.logged[0][0]
    trainer.is_global_zero = False
    callback.on_train_batch_end(trainer, Wrapped(by_laser), None, None, 5)  # type: ignore[attr-defined]
    assert len(logger.logged) == 1


def test_a_writer_goes_before_lightnings_loggers(by_laser: CompiledModel, lightning: type) -> None:
    logger, writer = Logger(), Recorder()
    trainer = SimpleNamespace(is_global_zero=True, global_step=5, loggers=[logger])
    callback = LaserCallback(by_laser, writer).lightning()
    callback.on_train_batch_end(trainer, nn.Linear(1, 1), None, None, 4)
    assert writer.at(5)
    assert not logger.logged


def test_a_model_without_a_compiled_one_is_left_alone(lightning: type) -> None:
    trainer = SimpleNamespace(is_global_zero=True, global_step=5, loggers=[Logger()])
    for module in (nn.Linear(1, 1), Wrapped(laser_fx.compile(Contractive()))):
        LaserCallback().lightning().on_train_batch_end(trainer, module, None, None, 4)
    assert not trainer.loggers[0].logged


@pytest.mark.parametrize(("library", "method"), [("lightning.pytorch", "lightning"), ("transformers", "trainer")])
def test_a_library_that_is_missing_is_named(library: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {library, "lightning", "pytorch_lightning"}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    with pytest.raises(MissingDependencyError, match="is not installed"):
        getattr(LaserCallback(), method)()
