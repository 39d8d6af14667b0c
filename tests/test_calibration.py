"""A calibration as a file: all of it comes back, older ones are read, and what is none is refused."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from laser_fx.calibration import Calibration, CarryStep, SiteBasis, Trial, check_schedule
from laser_fx.errors import InputError, OutputPathError


def calibration() -> Calibration:
    bases = {
        "loop_0:a": SiteBasis("activation", torch.eye(6)[:, :3]),
        "loop_0:b": SiteBasis("output", torch.eye(6)[:, :2].expand(4, 2, 6, 2).contiguous()),
        "loop_0:c": SiteBasis("answer", 2 * torch.eye(6)[:, :2], torch.eye(6)[:, :2] / 2, torch.ones(6, 8)),
    }
    trials = (Trial("answer", None, 0.4, 0.99, "selected"),)
    carry = (CarryStep(0.9, 0.1), CarryStep(0.99, 0.01))
    return Calibration(bases, "agreement", 0.4, 0.99, 1.0, (0.98, 1.0), 100, trials, (0.5, "exact"), carry)


def test_everything_comes_back(tmp_path: Path) -> None:
    found = calibration()
    found.save(tmp_path / "found.safetensors")
    again = Calibration.load(tmp_path / "found.safetensors")
    assert (again.trials, again.carry, again.rank_schedule) == (found.trials, found.carry, found.rank_schedule)
    assert (again.interval, again.kept, again.held_out) == (found.interval, found.kept, found.held_out)
    assert list(again.bases) == list(found.bases)
    for key, basis in found.bases.items():
        for name in ("basis", "dual", "probes"):
            mine, its = getattr(basis, name), getattr(again.bases[key], name)
            assert (mine is None) == (its is None)
            assert mine is None or torch.equal(mine, its)
        assert again.bases[key].objective == basis.objective


def write(path: Path, **changes: Any) -> Path:
    about = {
        "version": 1,
        "target": "agreement",
        "flops_share": 0.5,
        "kept": 0.9,
        "exact": 1.0,
        "interval": [0.8, 1.0],
        "held_out": 10,
        "trials": [{"objective": "output", "energy": 0.9, "flops_share": 0.5, "kept": 0.9}],
        "objectives": {"loop_0:a": "output"},
        **changes,
    }
    save_file({"loop_0:a": torch.eye(4)}, path, metadata={"laser_fx.calibration": json.dumps(about)})
    return path


def test_a_file_of_the_first_version_is_read(tmp_path: Path) -> None:
    found = Calibration.load(write(tmp_path / "old.safetensors"))
    assert (found.rank_schedule, found.carry, found.trials[0].examples) == (None, (), "searched")
    assert found.bases["loop_0:a"].objective == "output"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"objectives": {"loop_0:a": "everything"}},
        {"objectives": {"loop_0:b": "output"}},
        {"rank_schedule": [0.5, 2.0]},
        {"rank_schedule": []},
        {"carry": [{"cosine": 1.0}]},
        {"interval": "none"},
        {"surprise": 1},
        {"objectives": ["loop_0:a"]},
        {"objectives": {"loop_0:a": "answer"}},
        {"kept": "nearly all"},
        {"flops_share": None},
        {"target": ["accuracy"]},
        {"held_out": True},
    ],
)
def test_what_no_version_wrote_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no calibration can be read"):
        Calibration.load(write(tmp_path / "odd.safetensors", **change))


@pytest.mark.parametrize("told", ["null", "3", "[" * 100_000])
def test_what_tells_of_nothing_is_refused(tmp_path: Path, told: str) -> None:
    save_file({}, tmp_path / "odd.safetensors", metadata={"laser_fx.calibration": told})
    with pytest.raises(InputError, match="no calibration can be read"):
        Calibration.load(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    "basis", [torch.ones(4), torch.ones(4, 2, dtype=torch.int64), torch.full((4, 2), torch.nan), torch.ones(2, 4)]
)
def test_a_basis_that_is_no_matrix_of_numbers_is_refused(tmp_path: Path, basis: torch.Tensor) -> None:
    found = Calibration({"loop_0:a": SiteBasis("output", basis)}, "agreement", 0.5, 1.0, 1.0, (0.9, 1.0), 9, ())
    found.save(tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="no calibration can be read"):
        Calibration.load(tmp_path / "odd.safetensors")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(OutputPathError, match="cannot be written"):
            calibration().save(tmp_path / "c.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("schedule", [(), [0.5], (0.0,), (True,), ("half",), (float("nan"),), None])
def test_what_is_no_schedule_is_told(schedule: Any) -> None:
    assert check_schedule(schedule) is not None


def test_the_leading_columns_of_every_part_are_kept() -> None:
    lower = calibration().bases["loop_0:c"].of_rank(1)
    assert lower.dual is not None
    assert (lower.rank, lower.dual.shape, lower.error()) == (1, (6, 1), 0.0)
