"""Every block of these pages runs in order, and prints what the page shows. Others have tests of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.run_page import alike, ran, workshop
from tests.pages import page

PAGES = (
    "detection.md",
    "examples.md",
    "index.md",
    "mathematics.md",
    "promises.md",
    "sharp-edges.md",
    "tools.md",
    "tutorial.md",
)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_prints_what_it_shows(name: str, tmp_path: Path) -> None:
    text = page(name).read_text("utf-8")
    with workshop(tmp_path / name.removesuffix(".md")):
        assert alike(ran(text, name)) == alike(text)


def test_other_numbers_are_alike_where_the_page_says_so_and_other_words_are_not() -> None:
    shown = "```text similar\nloss 0.25 after 3 steps\n```\n"
    assert alike(shown) == alike(shown.replace("0.25", "0.31"))
    assert alike(shown) != alike(shown.replace("loss", "gain"))
    assert alike("```text\n3\n```") != alike("```text\n4\n```")


def test_a_block_that_prints_what_the_page_does_not_show_is_found(tmp_path: Path) -> None:
    with workshop(tmp_path), pytest.raises(AssertionError, match="does not show"):
        ran("```python\nprint(1)\n```\n", "page.md")
    with workshop(tmp_path):
        assert "2" in ran("```python\nprint(2)\n```\n\n```text\n1\n```\n", "page.md")


def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    with workshop(tmp_path), pytest.raises(AssertionError):
        ran("```console\n$ laser-fx verify nowhere.onnx\n```\n", "page.md")


def test_every_page_with_code_is_run_by_some_test() -> None:
    elsewhere = {"deployment.md", "training.md"}
    with_code = {path.name for path in page("").glob("*.md") if re.search(r"^```python", path.read_text("utf-8"), re.M)}
    assert with_code | {"examples.md"} == {*PAGES, *elsewhere}
