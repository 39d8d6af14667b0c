"""The pictures of docs/detection.md are what detection sees of the model on that page."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path

import laser_fx
from tests.pages import page

DRAWS = page("theme/pictures.py")
spec = importlib.util.spec_from_file_location("pictures", DRAWS)
assert spec is not None
assert spec.loader is not None
pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pictures)


def test_the_pictures_are_those_that_the_command_draws(tmp_path: Path) -> None:
    drawn = pictures.draw(tmp_path)
    text = page("detection.md").read_text("utf-8")
    assert len(drawn) == 3
    for path in drawn:
        assert f"pictures/{path.name}" in text
        assert path.read_text("utf-8") == page(f"pictures/{path.name}").read_text("utf-8")


def test_the_picture_of_the_nest_is_what_the_report_says() -> None:
    """Graphviz lays out differently from version to version: what stands in the picture is compared."""
    model, inputs = pictures.model_on(page("detection.md"))
    said = re.findall(r'label="(.*?)"', laser_fx.inspect(model, inputs).to_dot())
    drawn = re.findall(r"<text .*?>(.*?)</text>", page("pictures/nest.svg").read_text("utf-8"))
    assert sorted(html.unescape(text) for text in drawn) == sorted(line for text in said for line in text.split("\\n"))
