"""The page as a reader has it: in a browser, with mouse, keyboard, print and without scripts."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import GraphPicture, PictureNode, Report, SiteReport
from laser_fx.reporting.groups import LIMIT
from tests.reporting.big import large, sited
from tests.reporting.browser import Opened, opened, started
from tests.reporting.conftest import full_report

pytestmark = pytest.mark.skipif(os.environ.get("LASER_FX_BROWSER") == "none", reason="LASER_FX_BROWSER is none")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WIDTHS = (360, 768, 1280)
CHARTS = ("heat", "steps", "spectra", "carries", "dynamics", "memory", "onnx")
LOOPS = ("loop_0", "loop_0_0", "loop_0_0_0")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def whole() -> Report:
    """Everything that can be measured, a site at which nothing was, and an untrained control."""
    report = full_report(act=2)
    unmeasured = replace(report.sites[0].site, name="layers.2.exact_proj", rank=None)
    return replace(report, sites=(*report.sites, SiteReport(unmeasured, left_exact="it would not pay")))


@pytest.fixture(scope="module")
def file(whole: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole.to_html(tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def shared(browser: Browser, file: Path) -> Iterator[Opened]:
    with opened(browser, file) as it:
        yield it


@pytest.fixture
def page(shared: Opened, file: Path) -> Iterator[Page]:
    """The page, as other tests left it: its picture open, its rows all shown, at full width, in light colours."""
    shared.page.set_viewport_size({"width": 1280, "height": 900})
    shared.page.emulate_media(media="screen", color_scheme="light", reduced_motion="no-preference")
    shared.page.get_by_text("System", exact=True).click()
    shared.page.get_by_role("button", name="Open all").click()
    yield shared.page
    shared.check(file)


def texts(page: Page, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_inner_texts()]


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def background(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


LIGHT, DARK = "rgb(251, 251, 250)", "rgb(20, 23, 27)"


def test_every_chart_is_drawn(page: Page) -> None:
    for name in CHARTS:
        assert page.locator(f"#plot-{name} svg path").count() > 3, name
        assert page.locator(f"#plot-{name}").get_attribute("aria-label")


def test_the_theme_follows_the_system_and_the_switch(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    assert background(page) == DARK
    for name, colour in (("Light", LIGHT), ("Dark", DARK), ("System", DARK)):
        page.get_by_text(name, exact=True).click()
        assert background(page) == colour, name
    page.emulate_media(color_scheme="light")
    assert background(page) == LIGHT


REFUSE = "Object.defineProperty(window, 'localStorage', { get() { throw new Error('refused') } })"


def test_the_theme_is_remembered_where_the_browser_allows_that(shared: Opened, page: Page) -> None:
    def again() -> str:
        page.reload()
        shared.ready()
        return background(page)

    page.get_by_text("Dark", exact=True).click()
    assert again() == DARK
    assert page.locator("[name=theme][value=dark]").is_checked()
    page.evaluate(REFUSE)
    page.get_by_text("Light", exact=True).click()
    assert background(page) == LIGHT
    assert again() == DARK


def test_each_loop_of_the_picture_closes_and_opens(page: Page) -> None:
    for name in reversed(LOOPS):
        head = page.locator(f'#picture [data-thing="loop:{name}"]')
        assert head.get_attribute("aria-expanded") == "true"
        before = page.locator("#picture .operator").count()
        head.click()
        assert head.get_attribute("aria-expanded") == "false"
        assert page.locator("#picture .operator").count() < before
        head.click()
        assert page.locator("#picture .operator").count() == before
    assert page.locator("#picture .carry").count() == 1


def test_modules_of_the_picture_close_and_all_boxes_at_once(page: Page) -> None:
    module = page.locator('#picture [data-thing^="module:"]').first
    module.click()
    assert page.locator("#picture .closed.module [data-thing], #picture .closed.module").count() == 1
    page.get_by_role("button", name="Close all").click()
    assert page.locator("#picture .box").count() == 0
    assert "closed" in page.locator("#picture-note").inner_text()
    page.get_by_role("button", name="Open all").click()
    assert page.locator("#picture .closed").count() == 0


def test_the_picture_grows_and_shrinks(page: Page) -> None:
    def width() -> float:
        return float(page.locator("#picture svg").get_attribute("width") or 0)

    fitted = width()
    page.get_by_role("button", name="larger").click()
    assert width() > fitted
    page.get_by_role("button", name="smaller").click()
    page.get_by_role("button", name="smaller").click()
    assert width() < fitted
    page.get_by_role("button", name="Fit").click()
    assert width() == fitted


def chosen(page: Page) -> set[str]:
    return {str(site) for site in page.locator(".chosen").evaluate_all("all => all.map(one => one.dataset.site)")}


def test_a_site_lights_up_its_row_and_the_row_its_node(page: Page) -> None:
    row = page.locator("#table-sites tr", has_text="layers.1.o_proj")
    node = page.locator('#picture [aria-label="site layers.1.o_proj"]')
    row.locator("button.pick").click()
    assert chosen(page) == {"5"}
    assert node.get_attribute("aria-pressed") == row.locator("button.pick").get_attribute("aria-pressed") == "true"
    other = page.locator('#picture [aria-label="site lm_head"]')
    other.click()
    assert chosen(page) == {"8"}
    assert page.locator("#site-of-spectra").input_value() == "8"
    node.hover()
    assert row.get_attribute("class") == "lit"
    row.hover()
    assert "lit" in (node.get_attribute("class") or "")


def test_a_row_opens_what_is_around_its_node(page: Page) -> None:
    page.get_by_role("button", name="Close all").click()
    page.locator("#table-sites button.pick", has_text="layers.0.down_proj").click()
    node = page.locator('#picture [aria-label="site layers.0.down_proj"]')
    assert node.get_attribute("aria-pressed") == "true"


def test_the_heat_map_and_the_menus_choose_a_site(page: Page) -> None:
    cells = page.locator("#plot-heat svg .mark-rect path")
    cells.nth(3).click()
    first = chosen(page)
    page.locator("#site-of-steps").select_option("7")
    assert first == {"0"}
    assert chosen(page) == {"7"}
    cells.first.hover()
    assert "fidelity" in page.locator("#tip").inner_text()


@pytest.mark.parametrize("name", ["heat", "spectra", "carries", "dynamics"])
def test_tabs_change_their_chart_by_mouse_and_keys(page: Page, name: str) -> None:
    tabs = page.locator(f"#tabs-{name} [role=tab]")
    drawn = [page.locator(f"#plot-{name}").inner_html()]
    for i in range(1, tabs.count()):
        tabs.nth(i).click()
        drawn.append(page.locator(f"#plot-{name}").inner_html())
        assert page.locator(f"#panel-{name}").get_attribute("aria-labelledby") == tabs.nth(i).get_attribute("id")
    assert len(set(drawn)) == tabs.count()
    tabs.last.press("ArrowRight")
    assert tabs.first.get_attribute("aria-selected") == "true"
    assert tabs.first.evaluate("tab => tab === document.activeElement")


def test_each_column_sorts_both_ways(page: Page) -> None:
    headings = page.locator("#table-sites thead button")
    for column in range(headings.count()):
        orders = []
        for direction in ("ascending", "descending"):
            while headings.nth(column).locator("..").get_attribute("aria-sort") != direction:
                headings.nth(column).click()
            orders.append(texts(page, f"#table-sites tbody tr > :nth-child({column + 1})"))
        known = [[cell for cell in order if cell != "–"] for order in orders]
        assert orders[0][: len(known[0])] == known[0], "what was not measured comes last"
        assert sorted(known[0]) == sorted(known[1])
        assert known[0][0] != known[1][0] or len(set(known[0])) == 1
    tracked = [int(text) for text in texts(page, "#table-sites td[data-label='Tracked']")[:-1]]
    page.locator("#table-sites thead button", has_text="Tracked").click()
    fallen = [int(text) for text in texts(page, "#table-sites td[data-label='Tracked']")[:-1]]
    assert fallen == sorted(tracked, reverse=True)


def test_sites_are_found_by_words_and_loop(page: Page) -> None:
    page.locator("#find-site").fill("layers.0 proj")
    assert page.locator("#table-sites tbody tr:visible").count() == 4
    assert page.locator("#sites-found").inner_text() == "4 of 10 shown"
    page.locator("#find-site").fill("")
    page.locator("#find-loop").select_option("loop_0")
    assert texts(page, "#table-sites tbody tr:visible th") == ["lm_head\nloop_0"]
    page.locator("#find-loop").select_option("")
    assert page.locator("#table-sites tbody tr:visible").count() == 10


def test_the_plan_sorts_and_is_searched(page: Page) -> None:
    page.locator("#table-plan thead button", has_text="Codec").click()
    codecs = texts(page, "#table-plan td[data-label='Codec']")
    assert codecs == sorted(codecs)
    page.locator("[data-finds=table-plan]").fill("int8")
    assert set(texts(page, "#table-plan tbody tr:visible td[data-label='Codec']")) == {"int8"}


def test_a_phone_sorts_by_the_same_headings(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    heading = page.locator("#table-sites thead button", has_text="Steps")
    heading.click()
    heading.click()
    assert texts(page, "#table-sites tbody tr th")[0].startswith("lm_head")


def downloaded(page: Page, button: Any) -> str:
    """What a button hands to the browser, which drops all but ten downloads a second."""
    page.wait_for_timeout(120)
    with page.expect_download() as download:
        button.click()
    return Path(download.value.path()).read_text("utf-8")


def test_the_whole_report_is_downloaded(page: Page, whole: Report) -> None:
    data = json.loads(downloaded(page, page.locator("#download-json")))
    assert Report.from_dict(data) == Report.from_dict(json.loads(json.dumps(whole.to_dict())))


def test_each_table_is_downloaded(page: Page, whole: Report) -> None:
    assert whole.plan is not None
    assert whole.picture is not None
    steps = sum(len(site.steps) for site in whole.sites)
    rows = {
        "loops": 3,
        "sites": 2 * 10 - 1,
        "steps": 2 * steps,
        "spectra": 2 * steps,
        "trajectories": 2 * sum(len(series.steps) for series in whole.trajectories),
        "dynamics": 2 * (1 + 3 * sum(len(loop.steps) for loop in whole.dynamics)),
        "memory": sum(len(arm.classes) for arm in whole.memory),
        "plan": len(whole.plan.rows),
        "onnx": len(whole.onnx),
        "near_misses": 1,
        "picture": len(whole.picture.nodes),
    }
    assert {*rows} == {*page.locator("[data-csv]").evaluate_all("all => all.map(one => one.dataset.csv)")}
    for name, count in rows.items():
        text = downloaded(page, page.locator(f"#downloads ~ * [data-csv={name}]"))
        table = list(csv.DictReader(io.StringIO(text)))
        assert len(table) == count, name
        assert None not in table[0], name
        assert f"{count:,} row" in page.locator("#download-note").inner_text()
    first = whole.sites[0].steps[0]
    table = list(csv.DictReader(io.StringIO(downloaded(page, page.locator("#downloads ~ * [data-csv=steps]")))))
    assert (float(table[0]["fidelity"]), int(table[0]["rank"])) == (first.fidelity, first.rank)


HOSTILE = "=" + 300 * "m" + "</script><script>pwned=1</script><img src=x onerror=pwned=1>\u2028"


def hostile(report: Report) -> Report:
    """Every name of it is a script."""
    sites = tuple(replace(site, site=replace(site.site, name=HOSTILE + str(i))) for i, site in enumerate(report.sites))
    node = PictureNode(HOSTILE, HOSTILE, loop="loop_0", module=f"a.{HOSTILE}", site=sites[0].site.key, shape=HOSTILE)
    loop = Loop("loop_0", 2, carry=(HOSTILE,), source=HOSTILE, parameters=(HOSTILE,))
    changed = replace(report, model=HOSTILE, sites=sites, warnings=(HOSTILE,), picture=GraphPicture((node, node)))
    near = tuple(replace(miss, reason=HOSTILE, source=HOSTILE) for miss in report.near_misses)
    moved = tuple(replace(series, carry=HOSTILE) for series in report.trajectories)
    made = replace(changed, loops=LoopNest((loop,)), near_misses=near, environment={HOSTILE: HOSTILE})
    return replace(made, trajectories=moved)


def test_names_of_a_model_are_text(browser: Browser, whole: Report, tmp_path: Path) -> None:
    file = hostile(whole).to_html(tmp_path / "hostile.html")
    with opened(browser, file, width=360) as it:
        assert it.page.evaluate("typeof pwned") == "undefined"
        assert fits(it.page)
        for chart in ("heat", "carries"):
            words = it.page.locator(f"#plot-{chart} svg text").evaluate_all(
                "all => all.map(one => one.getBoundingClientRect().right)"
            )
            assert max(words) <= 360, chart
        assert it.page.locator("h1").inner_text() == HOSTILE
        assert it.page.locator("img").count() == 0
        assert "<script>" in it.page.locator("#picture").inner_text()
        table = downloaded(it.page, it.page.locator("#downloads ~ * [data-csv=sites]"))
        assert next(csv.DictReader(io.StringIO(table)))["name"] == f"'{HOSTILE}0"


def test_a_script_that_is_not_the_page_s_own_is_not_run(browser: Browser, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.html"
    other.write_text(file.read_text("utf-8").replace("</main>", "</main><script>pwned=1</script>"), encoding="utf-8")
    with pytest.raises(AssertionError, match="Content Security Policy"), opened(browser, other) as it:
        assert it.page.evaluate("typeof pwned") == "undefined"


FOCUSED = """() => {
  const at = document.activeElement;
  const outlined = at.matches("[name=theme]") ? at.nextElementSibling : at;
  const drawn = at.namespaceURI.endsWith("svg") && getComputedStyle(at.querySelector("rect")).strokeWidth === "3px";
  const seen = drawn || getComputedStyle(outlined).outlineStyle !== "none";
  const name = at.getAttribute("aria-label") || at.textContent.trim() || at.labels?.[0]?.textContent.trim();
  return [at.id || at.dataset.thing || at.tagName, name ? "named" : "nameless", seen ? "seen" : "unseen"].join("|");
}"""


def focused(page: Page) -> str:
    """What the Tab key reached: its id or element, whether it has a name, whether the focus is to be seen."""
    return str(page.evaluate(FOCUSED))


def test_the_keyboard_alone_reaches_and_uses_everything(browser: Browser, file: Path) -> None:
    with opened(browser, file) as it:
        walk(it.page)


def walk(page: Page) -> None:
    stops = []
    while len(stops) < 200 and "BODY" not in (stops[-1] if stops else ""):
        page.keyboard.press("Tab")
        stops.append(focused(page))
    assert [stop for stop in stops[:-1] if "nameless" in stop or "unseen" in stop] == []
    reached = {stop.split("|")[0] for stop in stops}
    assert {"find-site", "tab-heat-fidelity", "site-of-spectra", "download-json", "loop:loop_0"} <= reached
    assert sum(stop.startswith(("loop:", "module:", "node:")) for stop in stops) == 1

    page.locator('[data-thing="loop:loop_0"]').focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    assert page.locator('[data-thing="loop:loop_0_0_0"]').get_attribute("aria-expanded") == "false"
    page.keyboard.press("End")
    page.keyboard.press(" ")
    assert page.locator('#picture [aria-pressed="true"]').get_attribute("aria-label") == "site lm_head"

    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_axe_finds_nothing(page: Page, scheme: Any, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []


def test_paper_is_white_and_has_every_chart(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert background(page) == "rgb(255, 255, 255)"
    assert page.locator("nav").is_hidden()
    assert page.locator("#table-sites").is_visible()
    for name in CHARTS:
        assert page.locator(f"#plot-{name} svg").is_visible()
    assert len(page.pdf()) > 50_000
    page.set_viewport_size({"width": 780, "height": 1000})  # as wide as a sheet
    assert page.get_by_role("button", name="Lowest fidelity").count() == 0


def test_a_chart_is_drawn_anew_for_another_width(page: Page) -> None:
    page.evaluate("document.querySelector('#plot-onnx').replaceChildren()")
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_selector("#plot-onnx svg")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    page.wait_for_function("width => document.querySelector('#plot-heat svg').clientWidth <= width", arg=width)
    assert fits(page)


def test_without_scripts_the_tables_stay(browser: Browser, file: Path) -> None:
    with opened(browser, file, java_script_enabled=False) as it:
        assert it.page.locator("#table-sites").is_visible()
        assert it.page.locator("#table-memory").count() == 1
        assert it.page.locator(".js:visible").count() == 0
        assert "need scripts" in it.page.locator("noscript").inner_text()


def test_motion_is_reduced_where_that_is_asked_for(page: Page) -> None:
    for asked, behaviour in (("reduce", "auto"), ("no-preference", "smooth")):
        page.emulate_media(reduced_motion=asked)  # type: ignore[arg-type]
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour


def test_a_report_without_anything_opens(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, Report("Linear").to_html(tmp_path / "report.html"), width=360) as it:
        assert "found none" in it.page.locator(".lead").inner_text()
        assert fits(it.page)


def test_a_hundred_sites_by_five_hundred_steps_fit_and_open(browser: Browser, tmp_path: Path) -> None:
    file = large().to_html(tmp_path / "large.html")
    assert file.stat().st_size <= 3_000_000
    with opened(browser, file) as it:
        assert it.page.locator("#table-sites tbody tr").count() == 100
        assert it.page.locator("#plot-heat svg .mark-rect path").count() > 8_000
        it.page.get_by_role("button", name="Open all").click()
        assert "stay closed" in it.page.locator("#picture-note").inner_text()


def test_a_hundred_thousand_sites_are_put_together(browser: Browser, tmp_path: Path) -> None:
    file = sited(100_000).to_html(tmp_path / "many.html")
    assert file.stat().st_size <= 3_000_000
    with opened(browser, file, width=360) as it:
        assert "100,000 sites are shown as 1 group" in it.page.locator("#grouped").inner_text()
        assert 0 < it.page.locator("#table-sites tbody tr").count() <= LIMIT
        assert "blocks.*.mlp.down" in it.page.locator("#table-sites tbody").inner_text()
        assert fits(it.page)
