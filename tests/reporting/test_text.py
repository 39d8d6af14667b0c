from __future__ import annotations

import io
from dataclasses import replace

import pytest

from laser_fx.loops import Loop, LoopNest
from laser_fx.options import Options
from laser_fx.reporting import Flops, Report
from laser_fx.reporting.text import WIDTH


def test_the_nest_shows_trips_carries_and_source(report: Report) -> None:
    text = str(report)
    for expected in ("loop_0 × 16", "loop_0_0_0 × 6", "carry  z_H: float32[s0, 81, 256]", "models/trm.py:112"):
        assert expected in text


def test_an_inner_loop_is_indented_below_its_outer_one(report: Report) -> None:
    lines = str(report).splitlines()
    depth = [next(line.index(name) for line in lines if f"{name} ×" in line) for name in ("loop_0", "loop_0_0")]
    assert depth[0] < depth[1]


def test_every_site_has_its_line(report: Report) -> None:
    text = str(report)
    for site in report.sites:
        assert site.site.name in text


def test_lines_fit_the_width(report: Report) -> None:
    assert max(map(len, str(report).splitlines())) <= WIDTH


def test_totals_and_warnings_are_shown(report: Report) -> None:
    text = str(report)
    assert "0.62×" in text
    assert f"warning: {report.warnings[0]}" in text


def test_near_misses_are_shown_whole(report: Report) -> None:
    words = " ".join(str(report).split())
    assert f"nearly a loop: {report.near_misses[0].reason} — models/trm.py:88" in words


def test_a_model_without_a_loop_says_so() -> None:
    assert "no weight-shared loop" in str(Report("Linear"))


def test_what_was_not_measured_is_a_dash() -> None:
    assert "–" in str(Report("Tiny", LoopNest((Loop("loop_0", 2),)), flops=Flops(10, 5)))


def test_an_inspection_has_no_columns_for_steps(report: Report) -> None:
    sites = tuple(replace(site, steps=()) for site in report.sites)
    text = str(replace(report, sites=sites))
    assert "fidelity by step" not in text
    assert report.sites[0].site.name in text


def test_a_site_that_did_not_run_has_dashes(report: Report) -> None:
    first, *others = report.sites
    text = str(replace(report, sites=(replace(first, steps=()), *others)))
    line = next(line for line in text.splitlines() if line.startswith(first.site.name))
    assert line.split()[-5:] == ["–"] * 5


def test_print_writes_what_str_returns(report: Report) -> None:
    file = io.StringIO()
    report.print(file)
    assert file.getvalue() == f"{report}\n"


def test_print_uses_standard_output(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    report.print()
    assert "loop_0 × 16" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_print_works_in_every_encoding(report: Report, encoding: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    report.print(file)
    file.flush()
    assert b"loop_0_0_0" in raw.getvalue()


def test_a_terminal_gets_colour(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    report.print(terminal)
    assert "\x1b[" in terminal.getvalue()


def test_markup_in_a_name_is_text() -> None:
    assert "[bold]x[/bold]" in str(Report("[bold]x[/bold]", options=Options.exact()))
