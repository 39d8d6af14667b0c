"""The examples run, do what they say, and print what docs/examples.md shows."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.run_page import ROOT
from tests.pages import blocks, page

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example with arguments, in a folder of its own; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        example = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(example)
        example.main([*arguments, "--smoke"])
        return capsys.readouterr().out

    return run


def shown(name: str) -> str:
    """What the page shows of an example."""
    found = blocks(page("examples.md"))
    at = next(at for at, block in enumerate(found) if f"examples/{name}.py" in block.text)
    assert found[at + 1].language == "text"
    return found[at + 1].text


def kinds(text: str) -> set[str]:
    """The lines without their numbers: an example prints the same kinds of lines whatever the sizes are."""
    without = (re.sub(r"\d[\w.,%+-]*|–", "#", line) for line in text.splitlines())
    return {re.sub(r"#( #)+", "#", " ".join(line.split())) for line in without}


def test_half_of_the_memory_gives_the_same_losses(run: Run) -> None:
    told = run("train_half_memory")
    losses = {name: re.findall(rf"^{name} .*(loss .*)$", told, re.M) for name in ("eager", "laser-fx")}
    assert len(losses["eager"]) == 4
    assert losses["eager"] == losses["laser-fx"]
    (share,) = re.findall(r"^laser-fx .* backward, +(\d+)%", told, re.M)
    assert 0 < int(share) <= 50
    assert kinds(told) == kinds(shown("train_half_memory"))


def test_albert_is_one_file_for_every_depth(run: Run) -> None:
    told = run("export_albert")
    nodes = {form: int(count) for form, count in re.findall(r"^(\w+) +(\d+) nodes", told, re.M)}
    assert 0 < nodes["rolled"] < nodes["unrolled"]
    errors = [float(error) for error in re.findall(r"PyTorch (\S+)$", told, re.M)]
    assert len(errors) == 2
    assert max(errors) < 1e-4
    assert kinds(told) == kinds(shown("export_albert"))


def test_a_looped_language_model_is_measured_and_written_as_a_page(run: Run, tmp_path: Path) -> None:
    told = run("inspect_looped_lm", "--out", "looped-lm.html")
    assert "LoopedGPT" in (tmp_path / "looped-lm.html").read_text("utf-8")
    assert len(re.findall(r"^  trained .*qkv( +\d+){3}$", told, re.M)) == 1
    assert kinds(told) == kinds(shown("inspect_looped_lm"))


def test_every_example_is_on_the_page() -> None:
    text = page("examples.md").read_text("utf-8")
    names = [path.name for path in sorted((ROOT / "examples").glob("*.py"))]
    assert len(names) == 3
    assert all(f"$ python examples/{name}" in text and f"](../examples/{name})" in text for name in names)
