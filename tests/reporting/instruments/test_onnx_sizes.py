from __future__ import annotations

from pathlib import Path

import pytest
import torch

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import ExportError
from laser_fx.export import OnnxFile
from laser_fx.options import Options
from laser_fx.program import Program
from laser_fx.reporting.instruments import onnx_sizes
from laser_fx.reporting.instruments.onnx_sizes import measure_onnx
from tests.small import Contractive


def test_sizes_are_those_of_the_files(
    contractive: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_sizes, "_FORMS", ("rolled",))
    (found,) = contractive.report(training=False, measure="onnx").onnx
    written = contractive.to_onnx(tmp_path / "rolled.onnx", verify=False)
    assert (found.form, found.bytes, found.nodes, found.refused) == ("rolled", written.bytes, written.nodes, None)


def test_refusals_are_text(contractive: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(path: Path, form: str) -> None:
        raise ExportError(f"no {form} today", fix="wait")

    monkeypatch.setattr(onnx_sizes, "_LARGEST_UNROLLED", 3)
    found = measure_onnx(contractive.program, refusing)
    assert [size.refused for size in found[:3]] == ["no rolled today", "no functions today", "no step today"]
    assert found[3].refused is not None
    assert found[3].refused.endswith("nodes are more than the 3 that are written out")
    assert all(size.bytes is None and size.nodes is None for size in found)


def test_a_training_program_is_measured_by_its_inference_and_stays_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Program] = []

    def writing(program: Program, path: Path, **_: object) -> OnnxFile:
        written.append(program)
        return OnnxFile(path, 7, 3, "rolled", None)

    monkeypatch.setattr("laser_fx.compiled.to_onnx", writing)
    compiled = laser_fx.compile(Contractive().train(), (torch.randn(5, 32),), options=Options.exact())
    latest = compiled.program
    assert latest.mode.grad_enabled
    report = compiled.report(training=False, measure=("onnx",))
    assert [(size.bytes, size.nodes) for size in report.onnx] == [(7, 3)] * 4
    assert not any(program.mode.grad_enabled or program.mode.training for program in written)
    assert compiled.program is latest
    assert compiled.training
