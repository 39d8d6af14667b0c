from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest

from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import Flops, Report
from laser_fx.reporting.differences import Difference, differences
from laser_fx.reporting.text_differences import print_differences
from tests.reporting.conftest import full_report

FULL = full_report(act=2)


def short(found: list[Difference]) -> list[tuple[Any, ...]]:
    return [(d.section, d.where, d.what, d.before, d.after) for d in found]


def nest(*trips: int) -> Report:
    loop = None
    for depth, trip in reversed(list(enumerate(trips))):
        name = "loop" + "_0" * (depth + 1)
        loop = Loop(name, trip, children=(loop,) if loop else (), source=f"m.py:{depth}")
    return Report("Tiny", LoopNest((loop,) if loop else ()))


def printed(found: list[Difference]) -> str:
    file = io.StringIO()
    print_differences(found, file)
    return file.getvalue()


def test_a_report_differs_in_nothing_from_itself() -> None:
    assert differences(FULL, full_report(act=2)) == []
    assert differences(FULL, Report.from_dict(FULL.to_dict())) == []


def test_a_trip_count_is_named_by_its_loop() -> None:
    assert short(differences(nest(3, 6), nest(3, 4))) == [("loops", "loop_0_0", "trip_count", 6, 4)]


def test_a_loop_that_vanished_takes_those_inside_along() -> None:
    found = differences(nest(3, 6), nest())
    assert [(d.where, d.kind, d.after) for d in found] == [("loop_0", "vanished", None), ("loop_0_0", "vanished", None)]
    text = printed(found)
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["-", "loop_0", "×", "3", "m.py:0"],
        ["-", "loop_0_0", "×", "6", "m.py:1"],
    ]


def test_a_loop_that_appeared_is_one() -> None:
    found = differences(nest(3), nest(3, 6))
    assert [(d.where, d.kind, d.before) for d in found] == [("loop_0_0", "appeared", None)]


def test_what_was_not_measured_before_differs_from_what_is() -> None:
    found = differences(Report("A"), Report("A", flops=Flops(10, 5)))
    assert short(found) == [("flops", "", "", None, {"total": 10, "sites": 5, "laser": None})]
    assert "total 10, sites 5" in printed(found)


def test_sites_ranks_and_fidelity_are_compared_by_the_sites_name() -> None:
    first, *others = FULL.sites
    steps = (replace(first.steps[0], fidelity=0.5, exact=False), *first.steps[1:])
    changed = replace(first, rank_at=(1, 2, 3, 4), steps=steps)
    found = differences(FULL, replace(FULL, sites=(*others, changed)))
    at = f"loop_0_0_0:{first.site.name}"
    assert {d.where for d in found} == {at}, "the order of sites does not count"
    values = {d.what: d for d in found}
    assert values["rank_at"].after == [1, 2, 3, 4]
    assert values["lowest_fidelity"].after == 0.5
    assert values["steps[0].fidelity"].note == "1 of 36 differ"
    text = printed(found)
    assert "19/29/51/64 → 1/2/3/4" in text
    assert text.count(at) == 1, "a name is printed once"


def test_a_site_that_is_missing_is_one_difference() -> None:
    found = differences(FULL, replace(FULL, sites=FULL.sites[1:]))
    assert [(d.section, d.kind) for d in found] == [("sites", "vanished")]
    assert "162 × 256 → 768, 36 steps" in printed(found)


@pytest.mark.parametrize(
    "field", ["trajectories", "dynamics", "memory", "plan", "onnx", "picture", "control", "near_misses", "warnings"]
)
def test_every_section_is_seen(field: str) -> None:
    empty: Any = () if isinstance(getattr(FULL, field), tuple) else None
    found = differences(FULL, replace(FULL, **{field: empty}))
    assert {d.section for d in found} == {field}
    assert sum(line.startswith("- ") for line in printed(found).splitlines()) == sum(
        d.kind == "vanished" for d in found
    )


def test_a_change_inside_of_a_section_has_its_path() -> None:
    first, *arms = FULL.memory
    changed = replace(first, classes={**first.classes, "norm": 1})
    found = differences(FULL, replace(FULL, memory=(changed, *arms)))
    assert short(found) == [("memory", "eager", "classes.norm", 32960000, 1)]
    assert "31.4 MiB → 1 B" in printed(found)


def test_a_field_that_only_a_newer_schema_has_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Report.to_dict
    monkeypatch.setattr(Report, "to_dict", lambda self: {**plain(self), "weather": {"rain": self.model == "A"}})
    found = differences(Report("A"), Report("B"))
    assert ("weather", "", "rain", True, False) in short(found)


def test_a_tolerance_is_relative() -> None:
    before, after = Report("A", flops=Flops(1000, 0)), Report("A", flops=Flops(1009, 0))
    assert len(differences(before, after)) == 1
    assert len(differences(before, after, tolerance=0.001)) == 1
    assert differences(before, after, tolerance=0.01) == []


def test_truth_is_no_number() -> None:
    before, after = nest(1), nest(1)
    after = replace(after, loops=LoopNest((replace(after.loops.loops[0], grad_enabled=True),)))
    assert short(differences(before, after, tolerance=1.0)) == [("loops", "loop_0", "grad_enabled", False, True)]


def test_two_entries_of_one_name_are_told_apart() -> None:
    twice = replace(FULL, sites=(FULL.sites[0], FULL.sites[0]))
    found = differences(replace(FULL, sites=FULL.sites[:1]), twice)
    assert [(d.kind, d.where.endswith("(1)")) for d in found] == [("appeared", True)]


def test_markup_and_control_characters_are_text() -> None:
    text = printed(differences(Report("[red]a[/red]"), Report("b\x1b[31m\r")))
    assert "[red]a[/red] → b\\x1b[31m" in text
    assert "\x1b" not in text
    assert "\r" not in text


def test_thousands_of_differences_are_cut() -> None:
    first = replace(FULL.sites[0], steps=(), spectra=())
    many = tuple(replace(first, site=replace(first.site, name=str(i))) for i in range(1000))
    text = printed(differences(replace(FULL, sites=()), replace(FULL, sites=many)))
    assert "and 800 more: --json has all" in text
    assert text.count("\n") == 202


def test_every_number_is_shown_in_its_unit() -> None:
    report = FULL
    assert report.plan is not None
    assert report.control is not None
    arm = replace(report.memory[1], classes={**report.memory[1].classes, "linear": 2048}, time=0.5, gradient_error=0.25)
    row = replace(report.plan.rows[0], before=3 * 2**20)
    changed = replace(
        report,
        memory=(report.memory[0], arm, *report.memory[2:]),
        plan=replace(report.plan, rows=(row, *report.plan.rows[1:])),
        control=replace(report.control, flops=Flops(2_000_000_000, 0)),
    )
    lines = [" ".join(line.split()) for line in printed(differences(report, changed)).splitlines()]
    shown = "\n".join(lines)
    assert "→ 2.00 KiB" in shown
    assert re.search(r"time [\d.]+ → 0\.5 ", shown)
    assert re.search(r"gradient_error [\d.]+ → 0\.25", shown)
    assert re.search(r"rows\[0\]\.before .* → 3\.00 MiB", shown)
    assert re.search(r"flops\.total .* → 2\.00 G", shown)
