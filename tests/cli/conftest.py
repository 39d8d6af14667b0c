from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import laser_fx
from tests.cli.calls import REPORT

MODULE = """
import torch
def make(): return torch.nn.Linear(2, 2), (torch.ones(3, 2),)
def lone(): return torch.nn.Linear(2, 2), torch.ones(3, 2)
def alone(): return torch.nn.Linear(2, 2)
def seeded(batch: int = 3, seed: int = 0): return torch.nn.Linear(2, 2), (torch.full((batch, 2), float(seed)),)
def loud(): print("made"); return make()
def strange(): return "a model"
def needy(width): return make()
def broken(): raise RuntimeError("my own\\ndefect")
def deeper(): return torch.ones(2) @ torch.ones(3)
def quits(): raise SystemExit("no licence")
class Model(torch.nn.Linear):
    def __init__(self): super().__init__(2, 2)
    @staticmethod
    def make(): return make()
model = Model()
number = 3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, with a module of factories in it."""
    (tmp_path / "factories.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "lazily.py").write_text("def __getattr__(name): import not_there", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    monkeypatch.delitem(sys.modules, "lazily", raising=False)


@pytest.fixture
def inspected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `laser_fx.inspect` was called with."""
    calls: list[Any] = []
    monkeypatch.setattr(laser_fx, "inspect", lambda *given, **_: calls.append(given) or REPORT, raising=False)
    return calls


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `laser_fx.compile` and `to_onnx` were called with."""
    calls: list[Any] = []
    compiled = SimpleNamespace(program="the program", to_onnx=lambda path, **given: calls.append((path, given)))
    monkeypatch.setattr(laser_fx, "compile", lambda *_, **given: calls.append(given) or compiled, raising=False)
    return calls
