"""Renews the pictures of the report's page in docs/: `python -m tests.reporting.screenshots`.

The report is that of a trained model of the zoo, three supervision steps at fidelity 0.99 with a basis tracked at
every site, and of the same model with untrained weights beside it. It takes some minutes; ``--report`` keeps it, or
takes the one that was kept.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import Page

import laser_fx
from laser_fx.options import Options
from laser_fx.reporting import Report
from laser_fx.reporting.instruments.choose import OF_WEIGHTS, Measure
from laser_fx.zoo import TRM, Solve, held_out, load
from tests.reporting.browser import opened, started

DOCS = Path(__file__).parents[2] / "docs"
STEPS, PUZZLES, FIDELITY = 3, 4, 0.99
GAP = 12
MEASURES: tuple[Measure, ...] = ("picture", "spectra", "trajectories", "dynamics", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="JSON of the report: read where it is there, else written")
    kept = parser.parse_args().report
    report = _kept(kept) if kept is not None and kept.exists() else measured()
    if kept is not None:
        kept.write_text(json.dumps(report.to_dict()), encoding="utf-8")
    photographed(report)


def _kept(path: Path) -> Report:
    return Report.from_dict(json.loads(path.read_text("utf-8")))


def measured() -> Report:
    """The trained model, the untrained one beside it."""
    trained = load("attention")
    report = _measured(trained, MEASURES)
    torch.manual_seed(1)
    return replace(report, control=_measured(TRM(trained.config), OF_WEIGHTS))


def _measured(model: TRM, measures: tuple[Measure, ...]) -> Report:
    inputs = held_out("attention", PUZZLES)["inputs"]
    options = Options(fidelity=FIDELITY, sites="all")
    compiled = laser_fx.compile(Solve(model, STEPS).eval(), example_inputs=(inputs,), options=options)
    with torch.no_grad():
        compiled(inputs)
    return compiled.report(measure=measures, training="memory" in measures)


def photographed(report: Report) -> None:
    """A wide window in light colours, further down one in dark colours and one on dynamics; a phone at three places."""
    with tempfile.TemporaryDirectory() as folder, started() as browser:
        file = report.to_html(Path(folder) / "report.html")
        with opened(browser, file, 1280, 1500, reduced_motion="reduce") as it:
            _saved("report.png", [_seen(it.page)])
        with opened(browser, file, 1280, 1400, color_scheme="dark", reduced_motion="reduce") as it:
            _saved("page-dark.png", [_seen(it.page, "steps")])
        with opened(browser, file, 1280, 1300, reduced_motion="reduce") as it:
            _saved("page-dynamics.png", [_seen(it.page, "dynamics")])
        with opened(browser, file, 390, 760, reduced_motion="reduce") as it:
            _saved("page-phone.png", [_seen(it.page, place) for place in ("about", "sites", "steps", "dynamics")])


def _seen(page: Page, place: str = "about") -> Image.Image:
    """The window, scrolled to a section."""
    if place != "about":
        page.locator(f"#{place}").evaluate("heading => heading.scrollIntoView()")
    page.wait_for_timeout(300)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def _saved(name: str, windows: list[Image.Image]) -> None:
    """The windows side by side."""
    width = sum(window.width for window in windows) + GAP * (len(windows) - 1)
    picture = Image.new("RGB", (width, windows[0].height), "#888")
    left = 0
    for window in windows:
        picture.paste(window, (left, 0))
        left += window.width + GAP
    path = DOCS / name
    picture.save(path, optimize=True)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
