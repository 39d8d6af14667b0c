from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from laser_fx.errors import MissingDependencyError, OutputPathError
from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import Report
from laser_fx.reporting.html import CELLS, render

VOID = {"meta", "rect", "path", "line", "link", "br"}


class Page(HTMLParser):
    """Counts elements, and sees that each is closed where it should be."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def source(report: Report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_the_page_asks_for_nothing_else(page: Page, source: str) -> None:
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert not [attribute for attribute in page.attributes if attribute[1] in {"src", "href", "srcset"}]
    assert "url(" not in source
    assert "@import" not in source
    assert "default-src 'none'" in source


def test_near_misses_have_a_section_and_are_escaped(source: str, report: Report) -> None:
    section = source.partition('id="near-misses"')[2].partition("<h2")[0]
    assert "&lt;layers.1.up.weight&gt;" in section
    assert "models/trm.py:88" in section
    assert 'id="near-misses"' not in render(replace(report, near_misses=()))


def test_light_dark_phone_and_print_are_styled(source: str) -> None:
    for query in ("prefers-color-scheme: dark", "max-width: 46rem", "@media print"):
        assert query in source
    assert 'name="viewport"' in source


def test_every_table_has_a_caption_and_scopes(page: Page) -> None:
    assert page.elements["table"] == page.elements["caption"] == 1 + page.elements["svg"] - len(other_figures(page))
    scopes = sum(1 for tag, name, _ in page.attributes if (tag, name) == ("th", "scope"))
    assert scopes == page.elements["th"]


def other_figures(page: Page) -> list[str]:
    """Pictures that are not a row of the heat map: they are hidden from a screen reader, their words are not."""
    return [tag for tag, name, value in page.attributes if (tag, name, value) == ("svg", "aria-hidden", "true")]


def test_each_picture_has_a_text_or_is_decoration(page: Page) -> None:
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) + len(other_figures(page)) == page.elements["svg"]
    assert all("lowest fidelity" in (label or "") for label in labels)


def test_the_boxes_nest_as_the_loops_do(source: str) -> None:
    boxes = re.findall(r'<section class="loop" aria-label="(\w+), |(</section>)', source)
    assert [name or "end" for name, _ in boxes] == ["loop_0", "loop_0_0", "loop_0_0_0", "end", "end", "end"]


def test_a_long_row_of_the_heat_map_is_shortened(source: str) -> None:
    first = source[source.index('<svg class="heat"') :]
    assert first[: first.index("</svg>")].count("<g>") == CELLS


def test_names_from_the_model_are_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    loop = Loop("loop_0", 2, carry=(hostile,), source=hostile)
    source = render(Report(hostile, LoopNest((loop,)), warnings=(hostile,), environment={hostile: hostile}))
    assert "<script" not in source
    assert Page(source).open == []


def test_a_report_without_anything_is_a_page() -> None:
    source = render(Report("Linear"))
    assert "No weight-shared loop" in source
    assert Page(source).open == []


def test_what_was_not_measured_is_left_out(report: Report) -> None:
    sites = tuple(replace(site, steps=(), rank_at=(), energy=None, flops_share=None) for site in report.sites)
    source = render(replace(report, sites=sites, flops=None, saved_bytes=None, graph=None))
    assert 'id="fidelity"' not in source
    assert 'id="cost"' not in source
    assert Page(source).open == []


def test_the_file_is_written_whole_and_alone(report: Report, tmp_path: Path, source: str) -> None:
    path = tmp_path / "report.html"
    assert report.to_html(path) == path
    assert path.read_text(encoding="utf-8") == source
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_may_be_a_text(report: Report, tmp_path: Path) -> None:
    assert report.to_html(str(tmp_path / "r.html")).exists()


def test_an_existing_file_is_kept_unless_told(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputPathError, match="overwrite=True"):
        report.to_html(path)
    assert path.read_text(encoding="utf-8") == "mine"
    report.to_html(path, overwrite=True)
    assert path.read_text(encoding="utf-8") != "mine"


def test_a_folder_that_does_not_exist_is_named(report: Report, tmp_path: Path) -> None:
    with pytest.raises(OutputPathError, match="nowhere"):
        report.to_html(tmp_path / "nowhere" / "report.html")


def test_a_folder_in_the_file_s_place_is_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputPathError, match="folder"):
        report.to_html(tmp_path / "report.html", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_template_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match=r"laser-fx\[report\]"):
        Report("Tiny").to_html(tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
