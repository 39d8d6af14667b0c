"""Progress: on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stderr
from typing import Any

import pytest
import typer

from laser_fx.cli.bars import Bars, bars_or_none
from laser_fx.cli.told import told
from laser_fx.errors import InputError
from laser_fx.progress import each, listening, stage
from laser_fx.reporting.terminal import console
from tests.cli.calls import call


class Terminal(io.TextIOWrapper):
    """A terminal in memory."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What stands in for standard error."""
    made = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return made


def test_stages_are_shown_in_each_other_and_wiped(screen: Terminal) -> None:
    with redirect_stderr(screen), told(), stage("outer"):
        for _ in each("[red]inner[/red]", [1, 2]):
            pass
    shown = screen.text()
    assert "outer" in shown
    assert "  [red]inner[/red]" in shown
    assert "/2" in shown
    assert shown.rstrip("\r").endswith("\x1b[2K\x1b[?25h"), "lines are erased at the end, and the cursor is back"


@pytest.mark.parametrize("terminal", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_none(terminal: str, screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", terminal)
    with redirect_stderr(screen), told(), stage("outer"):
        pass
    assert screen.text() == ""


def test_what_is_no_terminal_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with redirect_stderr(io.StringIO()):
        assert bars_or_none() is None


def test_ascii_gets_an_ascii_spinner_and_bar() -> None:
    screen = Terminal("ascii")
    bars = Bars(console(screen, 80))
    with listening(bars):
        for _ in each("counting × 3", [1, 2, 3]):
            pass
    assert "counting x 3" in screen.text()


def test_a_warning_inside_of_a_stage_stands_by_itself(screen: Terminal) -> None:
    with redirect_stderr(screen), told(), stage("outer"):
        warnings.warn("look out", stacklevel=1)
    assert "warning: look out\n" in screen.text().replace("\r", "")


def test_an_error_inside_of_a_stage_ends_the_bars(screen: Terminal) -> None:
    def fail() -> None:
        with told():
            for _ in each("adding", [1, 2]):
                raise InputError("no")

    with redirect_stderr(screen), pytest.raises(typer.Exit):
        fail()
    assert screen.text().replace("\r", "").endswith("error: no\n")


def test_a_piped_command_prints_results_alone(inspected: list[Any]) -> None:
    done = call("inspect", "factories:make")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
