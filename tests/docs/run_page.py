"""Runs the blocks of a page of docs/ in order, and puts what they print into the page.

`python -m tests.docs.run_page tutorial.md` writes the page anew; the tests compare. What a block means:

- ```` ```python ```` runs, in one namespace for the page; with a file name behind it, it is written to that file;
- ```` ```text ```` behind it is what it prints; where it says ``similar``, numbers may be others;
- ```` ```console ```` has commands behind ``$``. ``laser-fx`` runs; where output is shown, it is compared. Of
  ``pip``, ``make`` and ``python`` it is checked that there is what they name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from laser_fx.cli import app
from tests.pages import page

__all__ = ["alike", "ran", "workshop"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.M | re.S)


def ran(text: str, name: str) -> str:
    """The page with what its blocks print, in the current folder."""
    namespace: dict[str, Any] = {"__name__": name}
    parts, end, printed = [], 0, ""
    for found in _FENCE.finditer(text):
        language, word, code = found.groups()
        assert not printed or language == "text", f"the page does not show: {printed}"
        if language == "text" and printed:
            code, printed = printed, ""
        elif language == "python" and word:
            Path(word).write_text(code, encoding="utf-8")
        elif language == "python":
            printed = _printed(code, name, namespace)
        elif language == "console":
            code = _told(code)
        parts += [text[end : found.start(3)], code]
        end = found.end(3)
    assert not printed, f"the page does not show: {printed}"
    return "".join([*parts, text[end:]])


def _printed(code: str, name: str, namespace: dict[str, Any]) -> str:
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        exec(compile(code, name, "exec"), namespace)
    return stream.getvalue()


def _told(code: str) -> str:
    """Commands, each with what it prints if the page shows anything."""
    shows = any(not line.startswith("$ ") for line in code.splitlines())
    told = ""
    for line in re.findall(r"^\$ (.*)$", code, re.M):
        command, *arguments = shlex.split(line, comments=True)
        output = _COMMANDS[command](arguments)
        told += f"$ {line}\n" + (output if shows else "")
    return told


def _laser_fx(arguments: list[str]) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def _pip(arguments: list[str]) -> str:
    """Extras that are asked for are in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = re.findall(r"\w+", "".join(re.findall(r"\[([\w,]+)\]", " ".join(arguments))))
    assert extras
    assert set(extras) <= set(project["optional-dependencies"])
    return ""


def _make(arguments: list[str]) -> str:
    targets = re.findall(r"^([\w-]+):.*## ", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert arguments[0] in targets
    return ""


def _python(arguments: list[str]) -> str:
    assert (ROOT / arguments[0]).is_file(), arguments
    return ""


_COMMANDS = {"laser-fx": _laser_fx, "pip": _pip, "make": _make, "python": _python}


def alike(text: str) -> str:
    """The page without numbers where it says that they may be others, and without the digits of rounding."""
    text = re.sub(
        r"^(```\w+ similar\n)(.*?)^```$", lambda f: f[1] + re.sub(r"\d[\d.,e+-]*", "#", f[2]), text, flags=re.M | re.S
    )
    return re.sub(r"\d\.\de-\d\d", "#", text)


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[None]:
    """Works in a folder whose modules can be imported, and forgets them afterwards."""
    before, modules = Path.cwd(), set(sys.modules)
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def main() -> None:
    for name in sys.argv[1:]:
        path = page(name)
        with tempfile.TemporaryDirectory() as folder, workshop(Path(folder) / path.stem):
            text = ran(path.read_text("utf-8"), name)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
