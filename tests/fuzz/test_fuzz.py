"""A few of the cases that ``make fuzz`` runs by the thousand, and that a defect would be seen."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laser_fx.passes.reroll import Rolled
from laser_fx.passes.roll import roll
from tests.fuzz import check, run
from tests.fuzz.check import equals_eager, finds_the_nest, refuses_tampering
from tests.fuzz.kinds import KINDS
from tests.fuzz.program import Case, Level, Mutation, Operation
from tests.fuzz.run import fuzz
from tests.fuzz.run_onnx import ONNX_KIND
from tests.fuzz.script import save_script, script

FEW = {"nests": 50, "near-loops": 40, "clean nests": 15, "tampered graphs": 40, "end to end": 5}
FIVE = Case((Level(5, (Operation("sin"), Operation("sub", 0, 4)), keeps=True),), training=True)
BROKEN = replace(FIVE, mutation=Mutation("constant", 0, (2, 0, 0)))


@pytest.mark.parametrize("name", KINDS)
def test_a_few_cases(name: str, tmp_path: Path) -> None:
    outcome = fuzz(KINDS[name], FEW[name], seed=0, folder=tmp_path)
    assert [path.read_text(encoding="utf-8") for path in outcome.failures] == []
    assert outcome.cases == FEW[name]


def test_most_tampered_graphs_have_a_defect_that_is_refused(tmp_path: Path) -> None:
    outcome = fuzz(KINDS["tampered graphs"], 30, seed=1, folder=tmp_path)
    assert outcome.counts["refused"] > 15


def test_a_step_that_differs_splits_the_loop() -> None:
    assert finds_the_nest(FIVE).nest.trips() == ((0, 5),)
    assert equals_eager(BROKEN).nest.trips() == ((0, 2), (0, 2))


def one_step_short(*args: Any, **options: Any) -> Rolled:
    """A defect that no certificate saw."""
    rolled = roll(*args, **options)
    for loop in rolled.graph_module.children():
        loop.trip_count -= 1
    return rolled


def test_a_defect_is_shrunk_and_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(check, "roll", one_step_short)
    outcome = fuzz(KINDS["clean nests"], 20, seed=0, folder=tmp_path)
    (path,) = outcome.failures
    text = path.read_text(encoding="utf-8")
    assert "output 0 is not that of the model as written" in text
    assert "for t0 in range(2):" in text, "two steps are the least that show it"
    assert "for t1" not in text


def test_a_certificate_that_accepts_anything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "certify", lambda *_: None)
    with pytest.raises(AssertionError, match="accepts a graph that gives something else"):
        [refuses_tampering(FIVE, (1, choice)) for choice in range(20)]


@pytest.mark.parametrize(
    ("text", "code"),
    [(script(FIVE, "as it should be", nest=True), 0), (script(BROKEN, "not one loop", nest=True), 1)],
)
def test_a_script_exits_with_1_while_the_defect_is_there(text: str, code: int, tmp_path: Path) -> None:
    path = save_script(text, tmp_path)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr


def test_a_script_of_a_tampered_graph_is_fine_as_long_as_it_is_refused(tmp_path: Path) -> None:
    path = save_script(script(FIVE, "swapped", choices=(1, 2)), tmp_path)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "no defect\n"), done.stderr


def test_the_command_writes_its_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "KINDS", {"clean nests": KINDS["clean nests"]})
    assert run.main(["--cases", "30", "--seed", "5", "--json", str(tmp_path / "fuzz.json")]) == 0
    summary = json.loads((tmp_path / "fuzz.json").read_text(encoding="utf-8"))
    assert (summary["cases"], summary["seed"]) == (3, 5)
    assert summary["kinds"]["clean nests"]["failures"] == []


def test_a_few_cases_as_files(tmp_path: Path) -> None:
    outcome = fuzz(ONNX_KIND, 3, seed=0, folder=tmp_path)
    assert [path.read_text(encoding="utf-8") for path in outcome.failures] == []
    assert outcome.cases == 3
