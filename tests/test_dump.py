"""`LASER_FX_DUMP`: the graph after each pass, as files."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest
import torch
from torch import fx

import laser_fx
from laser_fx import Options, dump
from laser_fx.dump import VARIABLE, passed
from laser_fx.errors import OutputPathError
from tests.small import Contractive


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "dump" / "here"
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def graph() -> fx.GraphModule:
    made = fx.Graph()
    made.output((made.placeholder("x"),))
    return fx.GraphModule(torch.nn.Module(), made)


def test_every_pass_of_a_program_is_a_file_headed_by_its_name(folder: Path) -> None:
    with torch.no_grad():
        compiled = laser_fx.compile(Contractive().eval(), (torch.randn(8, 32),), options=Options(sites="all"))
    (program,) = folder.iterdir()
    files = sorted(program.iterdir())
    names = ["01_capture.py", "02_reroll.py", "03_insert_probes.py", "04_insert_tracking.py"]
    assert [program.name, *(path.name for path in files)] == ["Contractive_1", *names]
    for number, path in enumerate(files, 1):
        text = path.read_text("utf-8")
        made_by = path.stem.partition("_")[2]
        assert text.startswith(f"# {made_by}: pass {number} of Contractive; ")
        assert ast.parse(text).body
    assert "# loop_0: 6 steps rolled into one\n# proved equal" in files[1].read_text("utf-8")
    compiled.with_options(Options(rank=4, sites="all"))
    assert [path.name for path in sorted(program.iterdir())[4:]] == ["05_insert_tracking.py"]


def test_what_calibration_runs_is_written_too(folder: Path) -> None:
    data = [torch.randn(8, 4) @ torch.randn(4, 32) for _ in range(4)]
    laser_fx.calibrate(Contractive().eval(), data, tolerance=0.5, objectives=("activation", "answer"))
    written = {path.stem.partition("_")[2]: path.read_text("utf-8") for path in folder.rglob("*.py")}
    assert {"collect_moments", "collect_gradients"} <= written.keys()
    assert ast.parse(written["collect_moments"]).body
    assert ast.parse(written["collect_gradients"]).body


def test_a_second_program_has_a_folder_of_its_own(folder: Path) -> None:
    for _ in range(2):
        made = graph()
        passed(made, "capture", made, "Net<script>\n")
    assert [path.name for path in sorted(folder.iterdir())] == ["Net_script___1", "Net_script___2"]
    head = (folder / "Net_script___1" / "01_capture.py").read_text("utf-8").splitlines()[0]
    assert head == r"# capture: pass 1 of Net<script>\n; 2 nodes, 0 loops"


def test_nothing_is_written_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dump, "readable", lambda *_: pytest.fail("the graph was printed for nobody"))
    monkeypatch.setattr(dump, "_size", lambda *_: pytest.fail("the graph was counted for nobody"))
    passed(graph(), "capture", graph(), "Net")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_a_folder_that_is_a_file_is_refused(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / inside))
    with pytest.raises(OutputPathError, match="the folder of LASER_FX_DUMP cannot be made") as caught:
        laser_fx.compile(Contractive().eval(), (torch.randn(8, 32),), options=Options.exact())
    assert caught.value.fix == "set LASER_FX_DUMP to a folder that can be written, or unset it"
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_that_cannot_be_written_is_refused(folder: Path) -> None:
    made = graph()
    passed(made, "capture", made, "Net")
    (folder / "Net_1" / "02_reroll.py").mkdir()
    with pytest.raises(OutputPathError, match="the path is a directory"):
        passed(made, "reroll", made, "Net")


def test_the_log_tells_of_passes(caplog: pytest.LogCaptureFixture) -> None:
    made = graph()
    with caplog.at_level(logging.DEBUG, "laser_fx"):
        passed(made, "reroll", made, "Net")
    (record,) = caplog.records
    assert (record.event, record.made_by, record.nodes, record.loops) == ("pass", "reroll", 2, 0)  # type: ignore[attr-defined]
