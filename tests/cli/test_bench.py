from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Group

import laser_fx.bench
import laser_fx.cli.bench
from laser_fx.bench import ArmResult, BenchResult
from laser_fx.options import Options
from laser_fx.reporting.terminal import plain_text
from tests.cli.calls import call

bench_module = sys.modules["laser_fx.cli.bench"]  # laser_fx.cli.bench is its command as well


def result(error: float | None = 0.0, dtype: str = "float32") -> BenchResult:
    arms = (
        ArmResult("eager", "the model", (0.01, 0.03, 0.02), 0.001, 4096, 0.0),
        ArmResult("exact", "compiled", (0.005, 0.015, 0.01), 2.0, 4096, error),
        ArmResult("torch.compile", "inductor", failed="RuntimeError: [red]no[/red] compiler"),
    )
    return BenchResult("[red]Tiny[/red]", (f"{dtype}[3,2]",), 7, arms, {"torch": "9"})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `laser_fx.bench.bench` was called with."""
    calls: list[Any] = []
    monkeypatch.setattr(laser_fx.bench, "bench", lambda *given, **named: calls.append(named) or result())
    return calls


def test_a_table_has_median_spread_and_ratio(measured: list[Any]) -> None:
    done = call("bench", "factories:make")
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == "[red]Tiny[/red] float32[3,2]"
    assert "eager 20.0 ms 10.0 ms – 30.0 ms 1.00× 1.00 ms 4.00 KiB 1.00× 0.0e+00" in lines
    assert "exact 10.0 ms 5.00 ms – 15.0 ms 0.50× 2.00 s 4.00 KiB 1.00× 0.0e+00" in lines
    assert "torch.compile was not run: RuntimeError: [red]no[/red] compiler" in lines
    assert measured[0] == {"options": Options(), "rounds": 5, "arms": (), "training": True}
    assert "\x1b" not in done.stdout


def test_a_narrow_terminal_loses_columns_and_no_names() -> None:
    text = plain_text(Group(*bench_module._page(result(), wide=False)), 72)
    assert "torch.compile" in text.splitlines()[4]
    assert "ready in" not in text
    assert max(map(len, text.splitlines())) <= 72


def test_options_are_handed_on(measured: list[Any]) -> None:
    given = ["--fidelity", "0.9", "--memory", "0.3", "--rounds", "2", "--arm", "onnx", "--arm", "exact"]
    assert call("bench", "factories:make", *given, "--no-training").exit_code == 0
    options = Options(fidelity=0.9, memory=0.3)
    assert measured[0] == {"options": options, "rounds": 2, "arms": ("onnx", "exact"), "training": False}
    assert call("bench", "factories:make", "--memory", "mean").exit_code == 2


def test_samples_are_printed_and_written_as_json(measured: list[Any], tmp_path: Path) -> None:
    done = call("bench", "factories:make", "--json", "--out", tmp_path / "b.json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "b.json").read_text("utf-8")) == result().to_dict()
    measured.clear()
    again = call("bench", "factories:make", "--out", tmp_path / "b.json")
    assert again.exit_code == 2
    assert not measured, "a file that is there is refused before the work"
    assert call("bench", "factories:make", "--out", tmp_path / "b.json", "--overwrite").exit_code == 0


@pytest.mark.parametrize("error", [0.5, float("nan")])
def test_an_exact_arm_that_answers_otherwise_ends_otherwise(error: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laser_fx.bench, "bench", lambda *_, **__: result(error))
    done = call("bench", "factories:make")
    assert done.exit_code == 1
    assert "error: exact is off by" in done.stderr


def test_an_exact_arm_whose_answers_have_other_sizes_ends_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laser_fx.bench, "bench", lambda *_, **__: result(None))
    done = call("bench", "factories:make")
    assert done.exit_code == 1
    assert "error: exact returns tensors of other sizes" in done.stderr


@pytest.mark.parametrize(("dtype", "code"), [("float16", 0), ("float32", 1)])
def test_what_rounding_excuses_is_that_of_the_dtype(dtype: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laser_fx.bench, "bench", lambda *_, **__: result(2e-3, dtype))
    assert call("bench", "factories:make").exit_code == code
