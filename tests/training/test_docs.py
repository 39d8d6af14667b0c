"""Every block of docs/training.md runs, and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest

from tests.pages import blocks, page
from tests.training.processes import launch

PAGE = page("training.md")


BLOCKS = blocks(PAGE)


def test_the_blocks_run_one_after_the_other_and_print_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "training"}
    printed = ""
    for block in BLOCKS:
        if block.language == "python" and not block.file:
            assert not printed, "the page does not show what a block prints"
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(compile(block.text, str(PAGE), "exec"), namespace)
            printed = stream.getvalue()
        elif block.language == "text" and printed:
            assert printed == block.text
            printed = ""
    assert not printed


@pytest.mark.slow
def test_the_files_run_in_two_processes(tmp_path: Path) -> None:
    files = [block for block in BLOCKS if block.file]
    assert [block.file for block in files] == ["sharded.py"]
    for block in files:
        (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        launch(block.file, folder=tmp_path)


def test_what_is_said_of_sharded_weights_is_what_they_are_refused_with() -> None:
    shown = next(block.text for block in BLOCKS if "DTensor" in block.text)
    source = (PAGE.parents[1] / "laser_fx" / "cache.py").read_text("utf-8")
    fix = shown.splitlines()[-1].removeprefix("  fix: ")
    assert f'"{fix}"' in source
