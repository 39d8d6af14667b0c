from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator, ValidationError

import laser_fx
from laser_fx.reporting import SCHEMA, Report, json_schema
from tests.reporting.conftest import full_report, sample_report
from tests.small import Contractive

COMMITTED = Path(__file__).parents[2] / "docs" / "report.schema.json"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_committed_schema_is_the_one_of_the_dataclasses() -> None:
    command = 'python -c "import json, laser_fx.reporting as r; print(json.dumps(r.json_schema(), indent=1))"'
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == json_schema(), f"run {command} > {COMMITTED.name}"
    assert json_schema()["properties"]["schema"] == {"const": SCHEMA}


@pytest.mark.parametrize("report", [Report("Tiny"), sample_report(2), full_report(2)], ids=["empty", "sample", "full"])
def test_reports_follow_it(report: Report, validator: Draft202012Validator) -> None:
    validator.validate(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


def test_a_measured_report_follows_it(validator: Draft202012Validator) -> None:
    measures = ("picture", "spectra", "trajectories", "dynamics")
    compiled = laser_fx.compile(Contractive(2).eval(), (torch.randn(6, 32),), options=laser_fx.Options.exact())
    report = compiled.report(training=False, measure=measures)
    validator.validate(json.loads(json.dumps(report.to_dict(), allow_nan=False)))


def changed(data: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    made = copy.deepcopy(data)
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return made


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2),
        (("model",), None),
        (("surprise",), 1),
        (("sites", 0, "site", "rows"), "many"),
        (("sites", 0, "site", "rows"), 1.5),
        (("options", "forward"), "backward"),
        (("dynamics", 0, "steps", 0, "eigenvalues", 0), [1.0]),
        (("control", "schema"), 1),
        (("memory", 0, "classes", "norm"), "much"),
    ],
)
def test_what_is_no_report_does_not(path: tuple[Any, ...], value: Any, validator: Draft202012Validator) -> None:
    with pytest.raises(ValidationError):
        validator.validate(changed(full_report(2).to_dict(), *path, to=value))
