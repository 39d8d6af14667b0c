"""Every block of docs/deployment.md runs in order, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from laser_fx.cli import app
from tests.export.triton_schema import parse
from tests.pages import blocks, page

PAGE = page("deployment.md")


BLOCKS = blocks(PAGE)


def without_errors(text: str) -> str:
    """Rounding differs from machine to machine."""
    return re.sub(r"\d\.\de-\d\d", "#", text)


def run_commands(text: str) -> str:
    """The page as it would look: every command, then what it prints."""
    shown = ""
    for line in re.findall(r"^\$ laser-fx (.*)$", text, re.M):
        done = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        shown += f"$ laser-fx {line}\n{done.output}"
    return shown


def run_python(text: str, namespace: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, str(PAGE), "exec"), namespace)
    return printed.getvalue()


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    namespace: dict[str, Any] = {"__name__": "deployment"}
    printed, kinds = "", set()
    for block in BLOCKS:
        kinds.add(block.language)
        assert not printed or block.language == "text", f"the page does not show: {printed}"
        if block.language == "python" and block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = run_python(block.text, namespace)
        elif block.language == "console":
            assert without_errors(run_commands(block.text)) == without_errors(block.text)
        elif block.language == "pbtxt":
            assert Path(block.file).read_text(encoding="ascii") == block.text
            assert parse(block.text).max_batch_size == 32
        else:
            assert block.language == "text", f"a block that no test runs: {block.language}"
            assert printed == block.text
            printed = ""
    assert not printed
    assert kinds == {"python", "console", "pbtxt", "text"}


def test_every_block_has_a_language() -> None:
    fences = re.findall(r"^```(.*)$", PAGE.read_text("utf-8"), re.M)
    assert len(fences) == 2 * len(BLOCKS)
