"""Reports of very many sites in very many loops: what is shown is bounded, and linear in time."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from laser_fx.errors import InputError
from laser_fx.loops import Loop, LoopNest, Site, Step
from laser_fx.reporting import Report, SiteReport
from laser_fx.reporting.groups import shown_sites
from laser_fx.reporting.tables import tables


def many(sites: int, loops: int) -> Report:
    nest = LoopNest(tuple(Loop(f"loop_{i}", 4) for i in range(loops)))
    placed = (Site(f"m{i}", f"loop_{i % loops}", f"m{i}.weight", 8, 32, 16, 4, rank=4) for i in range(sites))
    return Report("Many", nest, tuple(SiteReport(site, left_exact="it would cost more") for site in placed))


def test_a_group_has_the_lowest_fidelity_and_all_steps_of_its_sites() -> None:
    report = many(1_000, 1)
    exact, kept, low = (Step(*step) for step in ((0.5, 3, 1, 1, 1), (0.999, 3, 0, 0, 0), (0.99, 3, 1, 0, 0)))
    steps = ((exact,) * 4, *[(kept, low, kept, low)] * 999)
    sites = tuple(replace(site, steps=own) for site, own in zip(report.sites, steps, strict=True))
    (row,) = shown_sites(sites).rows
    assert (row.lowest_fidelity, row.tracked, row.resets, row.exact) == (0.99, 4 + 2 * 999, 4, 4)
    (cells,) = (row.cells for row in tables(replace(report, sites=sites), shown_sites(sites))["sites"].rows)
    assert [cell.text for cell in cells][-4:] == ["0.99000", "2,002", "4", "4"]


def test_lines_about_sites_and_warnings_are_bounded() -> None:
    report = replace(many(1_000, 1), warnings=tuple(f"warning {i}" for i in range(1_000)))
    text = str(report)
    assert text.count("stays exact") == text.count("warning: ") == 200
    assert "and 800 more sites that stay exact: they are in the JSON" in text
    assert "and 800 more warnings: they are in the JSON" in text


def test_graphviz_does_not_look_at_every_site_for_every_loop() -> None:
    report = many(8_000, 2_000)
    began = time.process_time()
    text = report.to_dot()
    assert time.process_time() - began < 5.0  # it took as long as 32 million comparisons, thrice
    assert text.count("32 → 16") == 8_000


@pytest.mark.parametrize("schema", [99, True, 3.0, None])
def test_a_control_has_a_schema_of_its_own(schema: object) -> None:
    data = replace(Report("Tiny"), control=Report("Tiny")).to_dict()
    assert Report.from_dict(data).control == Report("Tiny")
    data["control"]["schema"] = schema
    with pytest.raises(InputError, match=r"control\.schema"):
        Report.from_dict(data)
