"""What the docs say of the form `step` is what was measured, and the benchmark measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import step_form
from benchmarks.deploy.cases import Size
from tests.export.registry_cache import parse_functions_once

ROOT = Path(__file__).parents[2]
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "step_form.json").read_text(encoding="utf-8"))


def test_the_docs_quote_the_figures() -> None:
    page = " ".join((ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").split())
    for sentence in step_form.sentences(FIGURES):
        assert sentence in page


def test_the_figures_bear_where_they_come_from() -> None:
    assert FIGURES["command"].startswith("python -m benchmarks.step_form")
    assert {"torch", "ONNX Runtime", "CPU"} <= FIGURES["environment"].keys()
    measured = [(row["batch"], row["steps"]) for row in FIGURES["latency"]["rows"]]
    assert measured == [(batch, steps) for batch in step_form.BATCHES for steps in step_form.STEPS]


def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_functions_once()
    monkeypatch.setattr(step_form, "CELL_SECONDS", 0.0)
    found = step_form.latency(tmp_path, Size(16, 8, (1, 1)), (2,))
    assert [(row["batch"], row["steps"], row["rounds"]) for row in found["rows"]] == [(1, 2, 3), (8, 2, 3)]
    assert all(row["of_rolled"] > 0 for row in found["rows"])
