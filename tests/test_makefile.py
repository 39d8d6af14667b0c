"""A fresh machine without venv is told what to install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, python: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "test", f"PYTHON={python}"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def fake_python(checkout: Path, script: str) -> str:
    path = checkout / "python3"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_python_without_venv_names_the_package_to_install(checkout: Path) -> None:
    without_venv = fake_python(checkout, 'case "$2" in venv) mkdir -p .venv/bin; exit 1;; esac')
    done = make(checkout, without_venv)
    assert done.returncode != 0
    assert "sudo apt-get install python3-venv" in done.stderr
    assert not (checkout / ".venv").exists(), "half an environment would be taken for a whole one"


def test_an_old_python_is_refused(checkout: Path) -> None:
    done = make(checkout, fake_python(checkout, 'case "$1" in -c) exit 1;; esac'))
    assert done.returncode != 0
    assert "3.11" in done.stderr


def test_no_python_names_the_package_to_install(checkout: Path) -> None:
    done = make(checkout, str(checkout / "nowhere"))
    assert done.returncode != 0
    assert "sudo apt-get install python3" in done.stderr
