from __future__ import annotations

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import laser_fx
from laser_fx.errors import CaptureError, NoLoopWarning, OnnxFileError, OptionError, OutputPathError, VerificationError
from laser_fx.export import FileCheck, ServedModel
from laser_fx.options import Options
from laser_fx.reporting import Report
from tests.cli.calls import REPORT, call


def module(command: str) -> Any:
    return importlib.import_module(f"laser_fx.cli.{command}")


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(laser_fx, "inspect", failing, raising=False)


def test_inspect_prints_the_report(inspected: list[Any]) -> None:
    done = call("inspect", "factories:make")
    assert done.exit_code == 0
    assert "loop_0 × 4" in done.stdout
    model, inputs, _ = inspected[0]
    assert isinstance(model, nn.Linear)
    assert inputs[0].shape == (3, 2)


def test_inspect_measures_what_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(laser_fx, "inspect", lambda *_, **named: calls.append(named) or REPORT, raising=False)
    call("inspect", "factories:make")
    call("inspect", "factories:make", "--measure", "dynamics", "--control", "--fidelity", "0.9")
    call("inspect", "factories:make", "--measure", "dynamics", "--measure", "all")
    assert calls == [
        {"options": Options(), "measure": ("picture", "spectra", "trajectories"), "control": False},
        {
            "options": Options(fidelity=0.9),
            "measure": ("picture", "spectra", "trajectories", "dynamics"),
            "control": True,
        },
        {"options": Options(), "measure": "all", "control": False},
    ]
    refused = call("inspect", "factories:make", "--measure", "weather")
    assert refused.exit_code == 2
    assert "measure has 'weather'" in refused.stderr


def test_a_lone_input_is_made_a_tuple(inspected: list[Any]) -> None:
    call("inspect", "factories:lone")
    assert isinstance(inspected[0][1], tuple)
    assert torch.equal(inspected[0][1][0], torch.ones(3, 2))


def test_inspect_prints_json_and_nothing_else(inspected: list[Any], tmp_path: Path) -> None:
    done = call("inspect", "factories:make", "--json", "--html", tmp_path / "r.html")
    assert Report.from_dict(json.loads(done.stdout)) == REPORT


def test_inspect_writes_a_page(inspected: list[Any], tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    assert call("inspect", "factories:make", "--html", page).exit_code == 0
    assert page.exists()
    again = call("inspect", "factories:make", "--html", page)
    assert again.exit_code == 2
    assert "fix: pass --overwrite or choose another path" in again.stderr
    assert call("inspect", "factories:make", "--html", page, "--overwrite").exit_code == 0


def test_export_hands_its_options_on(exported: list[Any], tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    done = call("export", "factories:make", out, "--form", "unrolled", "--fidelity", "0.99", "--overwrite")
    assert done.exit_code == 0, done.output
    assert exported[0]["options"] == Options(fidelity=0.99)
    assert exported[1] == (out, {"form": "unrolled", "overwrite": True})


def test_export_is_rolled_and_keeps_files_unless_told(exported: list[Any]) -> None:
    call("export", "factories:make", "m.onnx")
    assert exported[0]["options"] == Options()
    assert exported[1] == (Path("m.onnx"), {"form": "rolled", "overwrite": False})


def test_export_can_be_exact(exported: list[Any]) -> None:
    call("export", "factories:make", "m.onnx", "--exact")
    assert exported[0]["options"] == Options.exact()


def test_export_hands_on_when_to_halt(exported: list[Any]) -> None:
    call("export", "factories:make", "m.onnx", "--halt", "q", "--halt-per", "example", "--halt-above", "1.5")
    asked = {"halt": "q", "halt_per": "example", "halt_above": 1.5}
    assert exported[1] == (Path("m.onnx"), {"form": "rolled", "overwrite": False, **asked})


def test_an_output_may_bear_the_name_of_a_default(exported: list[Any]) -> None:
    call("export", "factories:make", "m.onnx", "--halt", "batch")
    assert exported[1] == (Path("m.onnx"), {"form": "rolled", "overwrite": False, "halt": "batch"})


def test_export_hands_on_the_opset_and_where_weights_go(exported: list[Any]) -> None:
    call("export", "factories:make", "m.onnx", "--opset", "22", "--external-data")
    asked = {"opset": 22, "external_data": True}
    assert exported[1] == (Path("m.onnx"), {"form": "rolled", "overwrite": False, **asked})


def test_exact_and_fidelity_exclude_each_other(exported: list[Any]) -> None:
    done = call("export", "factories:make", "m.onnx", "--exact", "--fidelity", "0.9")
    assert done.exit_code == 2
    assert "exclude" in done.stderr
    assert not exported


def test_export_keeps_a_reference_where_asked(
    exported: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(
        module("export"), "write_reference", lambda *given, **named: written.append((given, named)) or given[2]
    )
    done = call("export", "factories:make", "m.onnx", "--reference", "r.safetensors")
    assert done.exit_code == 0, done.output
    assert written == [(("the program", Path("m.onnx"), Path("r.safetensors")), {"overwrite": False})]
    assert "wrote r.safetensors" in done.stderr
    (tmp_path / "taken.safetensors").touch()
    exported.clear()
    assert call("export", "factories:make", "n.onnx", "--reference", "taken.safetensors").exit_code == 2
    assert not exported, "a path that cannot be written is refused before the work"


CHECK = FileCheck(Path("m.onnx"), "rolled", True, ("BASIC", "ALL"), ("run a", "run b"), 1e-6, ("run b, ALL",), None)


def test_verify_prints_what_was_checked_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(module("verify"), "verify_exported", lambda *given: calls.append(given) or CHECK)
    done = call("verify", "m.onnx", "--reference", "r.safetensors")
    assert done.exit_code == 0
    assert calls == [(Path("m.onnx"), Path("r.safetensors"))]
    assert done.stdout.splitlines()[0] == "m.onnx: rolled"
    assert "run a: BASIC and ALL agree" in done.stdout
    assert "another answer: run b, ALL" in done.stdout
    assert "run b: BASIC" not in done.stdout
    assert done.stdout.endswith("verified\n")
    assert "\x1b" not in done.stdout
    said = json.loads(call("verify", "m.onnx", "--json").stdout)
    assert said["path"] == "m.onnx"
    assert said["max_error"] == 1e-6


@pytest.mark.parametrize(("error", "code"), [(VerificationError("differs"), 1), (OnnxFileError("damaged"), 2)])
def test_verify_has_exit_codes(monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(module("verify"), "verify_exported", failing)
    done = call("verify", "m.onnx")
    assert done.exit_code == code
    assert done.stderr == f"error: {error}\n"
    assert done.stdout == ""


def test_verify_reads_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("not onnx")
    done = call("verify", "m.onnx")
    assert done.exit_code == 2
    assert "no ONNX" in done.stderr
    assert "m.onnx" in done.stderr


def test_serve_config_hands_its_options_on_and_prints_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    served = ServedModel(Path("models/m"), "m", 8, ("depth keeps its default",))
    monkeypatch.setattr(
        module("serve_config"), "serve_config", lambda *given, **named: calls.append((given, named)) or served
    )
    given = ["--name", "m", "--max-batch", "8", "--queue-delay-us", "9", "--depth", "3", "--fidelity", "0.9"]
    done = call("serve-config", "m.onnx", "--out", "models", *given, "--overwrite")
    assert done.exit_code == 0, done.output
    assert done.stderr == "note: depth keeps its default\nwrote models/m\n"
    options = {"name": "m", "max_batch": 8, "queue_delay_us": 9, "depth": 3, "fidelity": 0.9, "overwrite": True}
    assert calls == [((Path("m.onnx"), Path("models")), options)]
    call("serve-config", "m.onnx")
    assert calls[1][0] == (Path("m.onnx"), Path("model_repository"))


def test_serve_config_of_no_file_writes_nothing(tmp_path: Path) -> None:
    assert call("serve-config", "none.onnx").exit_code == 2
    assert not (tmp_path / "model_repository").exists()


@pytest.mark.parametrize("error", [CaptureError("no graph"), OptionError("bad"), OutputPathError("taken")])
def test_an_error_is_a_sentence_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    fail(monkeypatch, error)
    done = call("inspect", "factories:make")
    assert done.exit_code == 2
    assert done.stderr == f"error: {error}\n"
    assert done.stdout == ""


def test_failed_parity_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, VerificationError("logits differ"))
    assert call("inspect", "factories:make").exit_code == 1


def test_a_warning_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def warned(*_: object, **__: object) -> Report:
        warnings.warn("no loop was found", NoLoopWarning, stacklevel=1)
        return REPORT

    monkeypatch.setattr(laser_fx, "inspect", warned, raising=False)
    assert call("inspect", "factories:make").stderr == "warning: no loop was found\n"


def test_demo_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "laser_fx.demo", SimpleNamespace(run=lambda **given: calls.append(given)))
    monkeypatch.setattr(laser_fx, "demo", sys.modules["laser_fx.demo"], raising=False)
    assert call("demo").exit_code == 0
    assert call("demo", "--model", "a", "--model", "b", "--out", "here", "--puzzles", "7").exit_code == 0
    assert calls == [
        {"models": (), "out": Path("laser-demo"), "puzzles": 500},
        {"models": ("a", "b"), "out": Path("here"), "puzzles": 7},
    ]


def test_the_version_is_printed() -> None:
    assert call("--version").stdout == f"{laser_fx.__version__}\n"


def test_a_defect_has_an_exit_code_and_a_traceback_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, ZeroDivisionError("oh"))
    done = call("inspect", "factories:make")
    assert done.exit_code == 3
    assert "ZeroDivisionError: oh" in done.stderr
    assert "defect of laser-fx" in done.stderr


def test_an_interruption_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, KeyboardInterrupt())
    done = call("inspect", "factories:make")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_help_lists_the_commands() -> None:
    done = call("--help")
    for command in ("inspect", "export", "verify", "serve-config", "demo"):
        assert command in done.stdout
