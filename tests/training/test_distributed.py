"""Two processes: the losses of one, and sharded weights that work or are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.loops import CONTRACTIVE, TRM, UNIVERSAL
from tests.training.processes import launch
from tests.training.workers import CASES, alone

TASKS = {"universal": UNIVERSAL, "trm": TRM, "contractive": CONTRACTIVE}
ROUNDING, LOW_RANK = 1e-5, 1e-2
"""Of a loss: gradients are averaged over two sums instead of one, and an optimiser divides by their size."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    file = tmp_path_factory.mktemp("distributed") / "results.json"
    launch(str(Path(__file__).with_name("workers.py")), str(file))
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(("ddp", "fsdp"))])
def test_the_losses_are_those_of_one_process(results: list[dict[str, Any]], case: str) -> None:
    task = next(task for name, task in TASKS.items() if name in case)
    expected = torch.tensor(alone(task))
    for process in results:
        rtol = LOW_RANK if case.endswith("laser") else ROUNDING
        torch.testing.assert_close(torch.tensor(process[case]), expected, rtol=rtol, atol=0.0)


@pytest.mark.parametrize("case", ["sharded before", "sharded inside"])
def test_weights_that_were_sharded_before_are_refused_with_the_way_out(
    results: list[dict[str, Any]], case: str
) -> None:
    for process in results:
        kind, what, where, fix = process[case]
        assert kind == "InputError"
        assert "shard" in what
        assert where.startswith("weight ")
        assert "fully_shard(laser_fx.compile(model))" in fix


@pytest.mark.parametrize("tracking", ["step", "segment"])
def test_bases_are_local_to_a_process(results: list[dict[str, Any]], tracking: str) -> None:
    found = [process[f"local {tracking}"] for process in results]
    assert [process["alone"] for process in found] == [True, True]
    if tracking == "segment":
        assert found[0]["bases"] != found[1]["bases"]
