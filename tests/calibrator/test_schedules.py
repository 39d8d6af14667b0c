"""The walk over schedules."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from laser_fx.calibrator.schedules import walk
from laser_fx.calibrator.search import Family, Setting
from laser_fx.passes.rank_schedule import Schedule

Shares = Mapping[Schedule, float]


def walked(shares: Shares, trips: int) -> tuple[list[Schedule], list[Schedule]]:
    """What is found, and what was tried."""
    tried: list[Schedule] = []

    def cheapest(schedule: Schedule) -> Setting | None:
        tried.append(schedule)
        return Setting(Family(("answer",), schedule=schedule), {}, shares[schedule]) if schedule in shares else None

    found = [setting.family.schedule or () for setting in walk(cheapest, trips)]
    return found, tried


def test_an_end_is_lengthened_while_that_takes_fewer_operations() -> None:
    shares = {(1.0, "exact"): 0.5, (1.0, "exact", "exact"): 0.4, (1.0, "exact", "exact", "exact"): 0.45}
    found, tried = walked(shares, 9)
    assert found == [(1.0, "exact", "exact")]
    assert (1.0, "exact", "exact", "exact", "exact") not in tried


@pytest.mark.parametrize("trips", [1, 2, 5])
def test_a_schedule_is_never_longer_than_the_loop(trips: int) -> None:
    class Cheaper(dict[Schedule, float]):
        def __contains__(self, schedule: object) -> bool:
            return True

        def __missing__(self, schedule: Schedule) -> float:
            return 1.0 / len(schedule)

    found, tried = walked(Cheaper(), trips)
    assert max(map(len, tried), default=0) == (trips if trips > 1 else 0)
    assert len(found) == (3 if trips > 1 else 0)


def test_a_kind_without_a_setting_that_keeps_the_answers_is_left_out() -> None:
    assert walked({(0.5, 1.0): 0.3}, 4)[0] == [(0.5, 1.0)]
