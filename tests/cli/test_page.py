"""docs/cli.md says what the commands do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from laser_fx.cli.inputs import parse_spec
from laser_fx.cli.told import Ends
from laser_fx.reporting import Report
from tests.cli.calls import call
from tests.cli.page import PAGE, commands, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.cli.page"


@pytest.mark.parametrize("name", commands())
def test_the_page_has_the_options_of_the_help_and_no_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = call(name, "--help")
    assert shown.exit_code == 0
    part = page().partition(f"### laser-fx {name}\n")[2].partition("\n### ")[0]
    documented = set(re.findall(r"^\| `(--[\w-]+)`", part, re.M)) | set(re.findall(r", `(--no-[\w-]+)` \|", part))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout)
    assert documented == set(re.findall(r"^\W*(--[\w-]+)", plain, re.M)) - {"--help"} | documented & {"--no-training"}


def test_every_exit_code_is_on_the_page() -> None:
    assert all(f"| {end.value} | {end.meaning} |" in page() for end in Ends)


def test_every_kind_of_input_on_the_page_is_one() -> None:
    specs = re.findall(r"^\| `([^`]*\[[^`]*)` \|", page(), re.M)
    assert len(specs) == 6
    assert all(parse_spec(spec) is not None for spec in specs)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_offered_the_zoo(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "laser-fx inspect zoo.hu"
    for name, value in {
        "_LASER_FX_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": words,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():
        monkeypatch.setenv(name, value)
    assert "zoo.huginn" in call().stdout


def test_completion_can_be_shown() -> None:
    shown = call("--help").stdout
    assert "--install-completion" in shown
    assert "--show-completion" in shown


def test_a_terminal_without_utf_8_gets_ascii_from_end_to_end(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from laser_fx.cli import app; app()", "inspect", "zoo.gru"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode("ascii")
    assert "`-- loop_0 x 5" in printed
    assert "?" not in printed
    assert done.stderr == b""


def test_help_fits_a_narrow_terminal_without_utf_8(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "40", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from laser_fx.cli import app; app()", "demo", "--help"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "~" in done.stdout.decode("ascii")  # where words were cut


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['laser-fx', 'diff', 'a.json', 'b.json']\nfrom laser_fx.cli import app; app()"
    for name in "ab":
        report = Report(name, warnings=(name * 200_000,))
        (tmp_path / f"{name}.json").write_text(json.dumps(report.to_dict()), encoding="utf-8")
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, check=False)
    os.close(writer)
    assert done.returncode == Ends.UNREAD
    assert done.stderr == b""
