from __future__ import annotations

import sys
from typing import get_args

import pytest

from laser_fx.errors import MissingDependencyError, OptionError
from laser_fx.reporting import Report
from laser_fx.reporting.frames import Table, rows
from tests.reporting.conftest import full_report


@pytest.fixture(scope="module")
def full() -> Report:
    return full_report(2)


@pytest.mark.parametrize("table", get_args(Table))
def test_every_row_has_the_columns_of_an_empty_table(full: Report, table: Table) -> None:
    frame, empty = full.to_dataframe(table), Report("Tiny").to_dataframe(table)
    assert list(frame.columns) == list(empty.columns)
    assert len(frame) == len(rows(full, table)) > 0
    assert len(empty) == 0


def test_rows_are_what_the_report_says(full: Report) -> None:
    sites, steps = full.to_dataframe(), full.to_dataframe("steps")
    assert list(sites["name"]) == [site.site.name for site in full.sites]
    assert list(sites["rank_99"]) == [site.rank_at[2] for site in full.sites]
    exact = steps[steps["exact"]].groupby("site").size().to_dict()
    assert exact == {site.site.key: site.exact for site in full.sites if site.exact}
    memory = full.to_dataframe("memory")
    assert memory.groupby("arm")["bytes"].sum().to_dict() == {arm.name: arm.total for arm in full.memory}
    radii = full.to_dataframe("dynamics").groupby(["loop", "step"])["modulus"].max()
    assert radii["loop_0", 0] == pytest.approx(full.dynamics[0].steps[0].radius)
    assert set(full.to_dataframe("trajectories")["loop"]) == {loop.name for loop in full.loops.walk()}
    spectra = full.to_dataframe("spectra")
    assert (spectra["effective_rank"] > 1).all()
    assert spectra["drift"].isna().sum() == len(full.sites)


def test_an_unknown_table_is_refused(full: Report) -> None:
    with pytest.raises(OptionError, match="table is 'flops'"):
        full.to_dataframe("flops")  # type: ignore[arg-type]


def test_pandas_is_asked_for_by_name(full: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pandas is not installed"):
        full.to_dataframe()
