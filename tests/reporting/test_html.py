from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import permutations
from pathlib import Path

import pytest

import laser_fx.reporting
from laser_fx.errors import MissingDependencyError, OutputPathError
from laser_fx.loops import Loop, LoopNest, Site, Step
from laser_fx.reporting import Report, SiteReport
from laser_fx.reporting.embedded import packed, safe_json
from laser_fx.reporting.groups import LIMIT, shown_sites
from laser_fx.reporting.html import render
from laser_fx.reporting.page_data import page_data
from laser_fx.reporting.vendored import SCRIPTS, style
from tests.reporting.conftest import full_report

VOID = {"meta", "rect", "path", "line", "link", "br", "wbr", "input"}


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
    assert not {"img", "iframe", "object"} & set(page.elements)
    assert not [attribute for attribute in page.attributes if attribute[1] in {"src", "srcset"}]
    assert all(str(value).startswith(("#", "data:,")) for _, name, value in page.attributes if name == "href")
    policy = next(str(value) for _, name, value in page.attributes if name == "content" and "default-src" in str(value))
    assert policy.startswith("default-src 'none';")
    assert "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]
    assert len(re.findall(r"'sha256-[^']+'", policy)) == len(re.findall(r"<script>", source))


def test_the_style_asks_for_nothing_else() -> None:
    assert "url(" not in style()
    assert "@import" not in style()


def test_near_misses_have_a_section_and_are_escaped(source: str, report: Report) -> None:
    section = source.partition('id="near-misses"')[2].partition("<h2")[0]
    assert "&lt;layers.1.up.weight&gt;" in section
    assert "models/trm.py:88" in section
    assert 'id="near-misses"' not in render(replace(report, near_misses=()))


def test_light_dark_phone_and_print_are_styled(source: str) -> None:
    for words in ("color-scheme: light dark", "max-width: 46rem", "@media print", "prefers-reduced-motion"):
        assert words in source
    assert 'name="viewport"' in source


def test_every_table_has_a_caption_and_scopes(page: Page) -> None:
    assert page.elements["table"] == page.elements["caption"] > 1
    scopes = sum(1 for tag, name, _ in page.attributes if (tag, name) == ("th", "scope"))
    assert scopes == page.elements["th"]


def test_every_chart_has_a_name_and_a_table() -> None:
    page = Page(render(full_report(act=2)))
    ids = {str(value) for _, name, value in page.attributes if name == "id"}
    assert {f"plot-{name}" for name in ("heat", "steps", "spectra", "carries", "dynamics", "memory", "onnx")} <= ids
    tables = ("sites", "steps-0", "spectra", "trajectories", "dynamics", "memory", "plan", "onnx")
    assert {f"table-{name}" for name in tables} <= ids
    assert page.open == []


def test_what_was_not_measured_says_how_to_get_it(source: str) -> None:
    for name in ("picture", "spectra", "trajectories", "dynamics", "memory", "onnx"):
        assert f"laser-fx inspect --measure {name}" in source


def test_the_boxes_nest_as_the_loops_do(source: str) -> None:
    nest = source.partition('<div class="nest">')[2].partition("</details>\n</section>")[0]
    boxes = re.findall(r'<section class="loop" aria-label="(\w+), |(</section>)', nest)
    assert [name or "end" for name, _ in boxes] == ["loop_0", "loop_0_0", "loop_0_0_0", "end", "end", "end"]


def test_names_from_the_model_are_escaped() -> None:
    hostile = '"><script>alert(1)</script>'
    loop = Loop("loop_0", 2, carry=(hostile,), source=hostile)
    source = render(Report(hostile, LoopNest((loop,)), warnings=(hostile,), environment={hostile: hostile}))
    assert "<script>alert" not in source
    assert Page(source).open == []


def test_data_cannot_end_their_element() -> None:
    assert (
        safe_json({"<&>\u2028\u2029": "</script>"}) == '{"\\u003c\\u0026\\u003e\\u2028\\u2029":"\\u003c/script\\u003e"}'
    )
    assert json.loads(safe_json({"a": "<\u2028"})) == {"a": "<\u2028"}


def test_the_whole_report_is_in_the_page(report: Report) -> None:
    text = packed(report)
    assert text.left_out is None
    data = json.loads(gzip.decompress(base64.b64decode(text.text)))
    assert data == json.loads(json.dumps(report.to_dict()))


def test_what_does_not_fit_is_left_out_and_named() -> None:
    report, size, said = full_report(act=2), 10**9, []
    while (less := packed(report, size - 1)).left_out is None or len(less.text) < size:
        said.append(str(less.left_out).partition(".")[0])
        size = len(less.text)
        Report.from_dict(json.loads(gzip.decompress(base64.b64decode(less.text))))
    assert said == ["None", "Spectra are left out", "Spectra and single steps are left out"]


def test_sites_that_cannot_be_told_apart_by_number_are_grouped_by_loop() -> None:
    names = [(f"{letters}", f"loop_{i % 300}") for i, letters in enumerate(map(str, permutations("abcdefg", 5)))]
    sites = [SiteReport(Site(name, loop, "w", 8, 4, 4, 1)) for name, loop in names]
    shown = shown_sites(sites)
    assert len(shown.rows) == LIMIT
    assert sum(shown.counts) == len(sites) == len(shown.row_of)
    assert "loops with the lowest fidelity first" in str(shown.note)


def test_a_group_shows_the_worst_of_its_sites() -> None:
    good, bad = Step(0.9999, 4, False, False, False), Step(0.999, 9, True, True, False)
    sites = [SiteReport(Site(f"l.{i}", "loop_0", "w", 8, 4, 4, 3), (good, bad if i == 7 else good)) for i in range(500)]
    (row,) = shown_sites(sites).rows
    assert (row.steps, row.lowest_fidelity, row.resets) == ((good, bad), 0.999, 1)


def test_vendored_libraries_are_those_that_were_looked_at() -> None:
    for folder in (Path(laser_fx.reporting.__file__).parent / "vendor", Path(__file__).parent / "vendor"):
        entries = json.loads((folder / "manifest.json").read_text("utf-8"))
        for entry in entries:
            assert hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest() == entry["sha256"], entry["file"]
            assert "copyright" in (folder / entry["licence_file"]).read_text("utf-8").lower()
        assert {path.name for path in folder.glob("*.js")} == {entry["file"] for entry in entries}


def test_libraries_carry_their_licences_into_the_page(source: str) -> None:
    for words in ("/*! vega 6", "/*! vega-lite 6", "/*! @dagrejs/dagre", "Redistribution and use in source and binary"):
        assert words in source
    assert "sourceMappingURL" not in source


def test_a_large_page_was_measured_to_open_in_two_seconds() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "report_page.json"
    measured = json.loads(path.read_text("utf-8"))
    assert (measured["sites"], measured["steps"]) == (100, 500)
    assert measured["bytes"] <= 3_000_000
    assert measured["ready_median"] < 2


def test_every_script_of_the_page_is_in_it() -> None:
    folder = Path(laser_fx.reporting.__file__).parent / "page"
    assert {path.stem for path in folder.glob("*.js")} == set(SCRIPTS)


def test_a_report_without_anything_is_a_page() -> None:
    source = render(Report("Linear"))
    assert "No weight-shared loop" in source
    assert "found none" in source
    assert Page(source).open == []


def test_what_was_not_measured_is_left_out(report: Report) -> None:
    sites = tuple(replace(site, steps=(), rank_at=(), energy=None, flops_share=None) for site in report.sites)
    source = render(replace(report, sites=sites, flops=None, saved_bytes=None, graph=None))
    assert 'id="steps"' not in source
    assert 'class="charts"' not in source
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


@pytest.mark.parametrize("fidelity", [math.inf, -math.inf, 1e308, math.nan])
def test_a_page_is_made_of_numbers_that_nobody_measures(fidelity: float, report: Report) -> None:
    first = report.sites[0]
    steps = (replace(first.steps[0], fidelity=fidelity), *first.steps[1:])
    odd = replace(first, site=replace(first.site, features=0), steps=steps)
    changed = replace(report, sites=(odd,))
    assert page_data(changed, shown_sites(changed.sites))["sites"][0]["lost"][0] is None
    assert "</html>" in render(changed)
