from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from laser_fx.demo import demonstrate
from laser_fx.errors import LaserError, OptionError, OutputPathError, VerificationError


@pytest.mark.slow
def test_the_demo_writes_files_a_page_and_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demonstrate, "FIDELITIES", (0.95,))
    monkeypatch.setattr(demonstrate, "_EXAMPLES", 4)
    monkeypatch.setattr(demonstrate, "_STEPS", {"attention": 2})
    demonstrate.run(("attention",), tmp_path / "out", puzzles=20)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    found = results["models"]["attention"]
    assert all(check["holds"] for check in found["checks"])
    assert found["arms"][0]["name"] == "eager"
    assert all(arm["puzzles"] == 20 for arm in found["arms"])
    written = {path.name for path in (tmp_path / "out" / "attention").iterdir()}
    assert written == {"model.onnx", "lowrank-0.95.onnx", "one-step-unrolled.onnx", "report.html"}
    printed = capsys.readouterr().out
    assert "loop_0 × 2 ⊃ loop_0_0 × 2 ⊃ loop_0_0_0 × 2" in printed
    assert "recorded earlier" in printed


def test_a_parity_check_that_fails_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = {"name": "ONNX answers as eager", "holds": False, "detail": "12 %"}
    monkeypatch.setattr(demonstrate._Demonstration, "run", lambda self: {"checks": [check]})
    with pytest.raises(VerificationError, match=r"attention: ONNX answers as eager \(12 %\)"):
        demonstrate.run(("attention",), tmp_path)


def test_the_difference_is_relative_to_the_largest_value() -> None:
    wanted = torch.tensor([4.0, -8.0])
    assert demonstrate._relative(wanted + torch.tensor([0.0, 2.0]), wanted) == 0.25


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaserError, match="nobody"):
        demonstrate.run(("nobody",), tmp_path)


def test_no_puzzles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="puzzles is 0"):
        demonstrate.run((), tmp_path, puzzles=0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputPathError, match="cannot be made"):
        demonstrate.run(("attention",), tmp_path / "file" / "out")
