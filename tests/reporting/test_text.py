from __future__ import annotations

import io
import os
import pty
import re
import select
import threading
from dataclasses import replace

import pytest

from laser_fx.loops import Loop, LoopNest, Site
from laser_fx.options import Options
from laser_fx.reporting import Flops, Report, SiteReport
from laser_fx.reporting.text import WIDTH, render
from tests.reporting.conftest import full_report


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


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_print_works_in_every_encoding(report: Report, encoding: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    report.print(file)
    file.flush()
    printed = raw.getvalue().decode(encoding)
    assert "loop_0_0_0" in printed
    assert "?" not in printed


def test_what_is_no_utf_8_has_ascii_guides_and_bars(report: Report) -> None:
    lines = render(report, encoding="ascii").splitlines()
    assert lines[1] == "`-- loop_0 x 16  with gradient  models/trm.py:140"
    drawn = next(line for line in lines if line.startswith("lm_head"))
    assert re.search(r" [-+*@]{16} ", drawn)
    plain = str(report).splitlines()
    assert [len(line) for line in lines if "layers.0" in line] == [len(line) for line in plain if "layers.0" in line]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_narrow_terminal_keeps_the_names_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    full_report(act=2).print(terminal)
    for name in (
        "FLOPs",
        "saved for backward",
        "loop_0_0_0 \x1b[0madd_3",
        "elementwise",
        "gradient off by",
        "unrolled",
    ):
        assert name in terminal.getvalue(), name


def test_a_terminal_gets_colour(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    report.print(terminal)
    assert "\x1b[" in terminal.getvalue()


def test_markup_in_a_name_is_text() -> None:
    name = "[red]x[/red]"
    site = SiteReport(Site(name, name, name, 4, 8, 8, 2), left_exact=name)
    loop = Loop(name, 2, carry=(name,), source=name)
    text = str(Report(name, LoopNest((loop,)), (site,), Options.exact(), {"on": name}, warnings=(name,)))
    assert text.count(name) == 11
    assert text.count("red") == 2 * text.count(name)


def test_every_measurement_has_its_table() -> None:
    text = str(full_report())
    for expected in (
        "step 144",  # from where on a carry is still
        "contracting",
        "the body draws random numbers",
        "elementwise         161 MiB   132 MiB  83.8 MiB  8.05 MiB",
        "the plan keeps 204 MiB of 393 MiB, 52 %, in 12 values",
        "27,440 nodes are more than the 5,000 that were allowed",
        "untrained",
    ):
        assert expected in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_an_inspection_draws_the_rank_of_every_step() -> None:
    report = full_report()
    sites = tuple(replace(site, steps=()) for site in report.sites)
    text = str(replace(report, sites=sites))
    assert "rank by step" in text
    assert "fidelity, rank" not in text
    spectra = sites[-1].spectra
    ranks = [spectrum.ranks[-1] for spectrum in spectra]
    after = text[text.index("lm_head") :].splitlines()
    assert f"{min(ranks)}–{max(ranks)}" in after[1]
    assert len(after[0].split()[-1]) == len(spectra) <= 22


def test_what_all_names_begin_with_is_said_once_where_they_are_long(report: Report) -> None:
    sites = tuple(replace(s, site=replace(s.site, name=f"trm.inner.L_level.{s.site.name}")) for s in report.sites)
    text = str(replace(report, sites=sites))
    assert text.count("trm.inner.L_level") == 1
    assert "site in trm.inner.L_level:\nloop, N × D → F" in text
    assert "\nlayers.0.gate_up_proj " in text


def test_a_hundred_thousand_sites_are_shown_in_part(report: Report) -> None:
    text = str(replace(report, sites=(replace(report.sites[0], steps=()),) * 100_000))
    assert "and 99,800 more sites" in text
    assert text.count("layers.0.qkv_proj") == 200


@pytest.mark.parametrize("terminal", ["dumb", "xterm-256color"])
def test_a_terminal_without_colour_and_utf_8_gets_neither(
    terminal: str, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="ascii") as screen:
        assert screen.isatty()
        writing = threading.Thread(target=report.print, args=(screen,))
        writing.start()
        printed = b""
        while writing.is_alive() or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                printed += os.read(ours, 65536)
    os.close(ours)
    text = printed.decode("ascii")
    assert "`-- loop_0 x 16" in re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", text), "a colour"
    assert terminal != "dumb" or "\x1b" not in text
