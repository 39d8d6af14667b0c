from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from laser_fx.cli import app
from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import SCHEMA, Report
from tests.cli.calls import REPORT, call


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A report, and one of another trip count made elsewhere."""
    other = replace(REPORT, loops=LoopNest((Loop("loop_0", 6, carry=("z",)),)), environment={"torch": "9"})
    paths = tmp_path / "a.json", tmp_path / "b.json"
    for path, report in zip(paths, (REPORT, other), strict=True):
        path.write_text(json.dumps(report.to_dict()), encoding="utf-8")
    return paths


def test_equal_reports_end_well(files: tuple[Path, Path]) -> None:
    done = call("diff", files[0], files[0])
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "the reports are equal\n")


def test_other_reports_end_otherwise(files: tuple[Path, Path]) -> None:
    done = call("diff", *files)
    assert (done.exit_code, done.stderr) == (1, "1 difference\n")
    assert done.stdout.split() == ["loops", "~", "loop_0", "trip_count", "4", "→", "6", "1.50×"]


def test_versions_and_machine_of_a_control_may_differ_too(tmp_path: Path) -> None:
    paths = [tmp_path / f"{torch}.json" for torch in ("8", "9")]
    for path in paths:
        made_on = {"torch": path.stem}
        report = replace(REPORT, environment=made_on, control=replace(REPORT, environment=made_on))
        path.write_text(json.dumps(report.to_dict()), encoding="utf-8")
    assert call("diff", *paths).exit_code == 0


def test_json_has_every_difference(files: tuple[Path, Path]) -> None:
    done = call("diff", *files, "--json")
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)
    assert (found["section"], found["where"], found["before"], found["after"]) == ("loops", "loop_0", 4, 6)
    assert json.loads(call("diff", files[0], files[0], "--json").stdout) == []


def test_a_section_may_be_left_out(files: tuple[Path, Path]) -> None:
    assert call("diff", *files, "--ignore", "loops").exit_code == 0
    done = call("diff", *files, "--ignore", "lops")
    assert done.exit_code == 2
    assert "a report has no 'lops'" in done.stderr


def test_a_report_may_come_from_standard_input(files: tuple[Path, Path]) -> None:
    done = CliRunner().invoke(app, ["diff", str(files[0]), "-"], input=files[1].read_text("utf-8"))
    assert done.exit_code == 1
    assert call("diff", "-", "-").exit_code == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the report cannot be read: No such file"),
        (b"", "the report is no JSON"),
        (b"\xff\xfe", "the report is no JSON"),
        (b"[" * 100_000, "the report is no JSON"),
        (b"[]", "the file holds no report"),
        (b"{}", "the report has schema None"),
        (b'{"schema": 3}', "the dictionary is no report"),
        (json.dumps({**REPORT.to_dict(), "schema": SCHEMA + 1}).encode(), f"the report has schema {SCHEMA + 1}"),
        (json.dumps({**REPORT.to_dict(), "flops": "many"}).encode(), "the dictionary is no report"),
        (json.dumps({**REPORT.to_dict(), "loops": {}}).encode(), "the dictionary is no report"),
    ],
)
def test_a_file_that_is_no_report_of_ours_is_explained(
    content: bytes | None, said: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_bytes(content)
    for order in ((files[0], bad), (bad, files[0])):
        done = call("diff", *order)
        assert done.exit_code == 2
        assert said in done.stderr
        assert "bad.json" in done.stderr
        assert done.stdout == ""


def test_a_report_nested_too_deep_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    plain = json.dumps(Report("x").to_dict())
    text = plain.replace('"control": null', '"control": ' + plain.replace('"control": null', '"control": %s'), 1)
    for _ in range(300):
        text = text.replace("%s", plain.replace('"control": null', '"control": %s'), 1)
    (tmp_path / "deep.json").write_text(text.replace("%s", "null"), encoding="utf-8")
    done = call("diff", files[0], tmp_path / "deep.json")
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr
