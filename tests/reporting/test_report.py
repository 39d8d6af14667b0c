from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import pytest
from torch import fx, nn

from laser_fx.errors import InputError
from laser_fx.loops import Loop, LoopNest, Site, Step
from laser_fx.options import Options
from laser_fx.reporting import SCHEMA, Flops, Report, SiteReport, StepSpectrum
from tests.reporting.conftest import full_report

SITE = Site("mlp.down", "loop_0", "mlp.down.weight", 72, 768, 256, steps=2, rank=64)


def through_json(report: Report) -> Report:
    return Report.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


def test_a_report_survives_json(report: Report) -> None:
    assert through_json(report) == report


def test_everything_that_can_be_measured_survives_json() -> None:
    report = full_report(act=2)
    assert through_json(report) == report
    assert report.control is not None


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        ({"dynamics": [{"loop": "loop_0", "size": "many"}]}, "dynamics[0].size"),
        ({"trajectories": [{"loop": "loop_0", "carry": "z", "steps": [{"change": "much"}]}]}, "steps[0].change"),
        ({"memory": [{"name": "lean", "classes": {"norm": 0.5}}]}, "memory[0].classes.norm"),
        ({"memory": [{"name": "lean", "classes": {"norm": 10**400}}]}, "norm is a whole number of more"),
        ({"trajectories": [{"loop": "l", "carry": "z", "steps": [{"change": -(10**400)}]}]}, "steps[0].change"),
        ({"picture": {"nodes": [{"label": "add"}]}}, "picture.nodes[0]"),
        ({"control": 3}, "control"),
        ({"options": {"fidelity": 1.5}}, "fidelity is 1.5"),
    ],
)
def test_what_is_wrong_inside_a_report_is_named(broken: dict[str, object], where: str, report: Report) -> None:
    with pytest.raises(InputError, match=re.escape(where)):
        Report.from_dict({**report.to_dict(), **broken})


def test_a_report_is_made_of_a_dictionary() -> None:
    with pytest.raises(InputError, match="not of a list"):
        Report.from_dict([1])  # type: ignore[arg-type]


def test_an_empty_report_survives_json() -> None:
    report = Report("Linear", options=Options.exact())
    assert through_json(report) == report


def test_the_dictionary_names_its_schema(report: Report) -> None:
    assert report.to_dict()["schema"] == SCHEMA


def test_loop_bodies_are_left_out() -> None:
    body = fx.symbolic_trace(nn.Linear(2, 2))
    report = Report("Tiny", LoopNest((Loop("loop_0", 3, body=body),)))
    assert "body" not in report.to_dict()["loops"][0]
    assert through_json(report) == report


def test_a_singular_value_whose_square_is_lost_counts_nothing() -> None:
    assert StepSpectrum(0, (1.0, 1e-170), (1,)).effective_rank == 1.0


def test_nan_survives_json_as_nan() -> None:
    report = Report("Tiny", sites=(SiteReport(SITE, (Step(math.nan, 64, True, True, True),)),))
    step = through_json(report).sites[0].steps[0]
    assert math.isnan(step.fidelity)
    assert step.exact


def test_a_report_of_before_there_were_near_misses_is_read(report: Report) -> None:
    older = {key: value for key, value in report.to_dict().items() if key != "near_misses"}
    assert Report.from_dict({**older, "schema": 1}) == replace(report, near_misses=())


def test_another_schema_is_refused(report: Report) -> None:
    with pytest.raises(InputError, match="schema 7"):
        Report.from_dict({**report.to_dict(), "schema": 7})


@pytest.mark.parametrize(
    "broken", [{"schema": SCHEMA}, {"schema": SCHEMA, "loops": 3}, {}, {"schema": SCHEMA, "options": {"speed": 1}}]
)
def test_what_is_no_report_is_refused(broken: dict[str, object], report: Report) -> None:
    with pytest.raises(InputError):
        Report.from_dict(broken if len(broken) < 2 else {**report.to_dict(), **broken})


def test_unknown_fields_are_refused(report: Report) -> None:
    with pytest.raises(InputError):
        Report.from_dict({**report.to_dict(), "colour": "blue"})


def test_the_lowest_fidelity_is_that_of_steps_that_used_their_basis() -> None:
    used, exact = Step(0.9995, 3, False, False, False), Step(0.5, 64, True, True, True)
    assert SiteReport(SITE, (used, exact)).lowest_fidelity == 0.9995
    assert SiteReport(SITE, (exact,)).lowest_fidelity is None
    assert SiteReport(SITE).lowest_fidelity is None


def test_the_total_in_low_rank_changes_the_sites_alone() -> None:
    assert Flops(100, 80, 30).laser_total == 50
    assert Flops(100, 80).laser_total is None


def test_reports_of_other_numbers_differ(report: Report) -> None:
    assert replace(report, flops=Flops(1, 1, 1)) != report
