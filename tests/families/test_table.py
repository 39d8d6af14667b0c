from __future__ import annotations

from tests.families.expected import Figures
from tests.families.table import PAGE, drawn, page


def loop(level: int, trips: int) -> Figures:
    return Figures(level, trips, carry=1, invariants=0)


def test_the_page_is_what_the_registry_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tests.families.table"


def test_a_nest_is_drawn_with_its_siblings() -> None:
    assert drawn((loop(0, 3), loop(1, 2), loop(2, 6), loop(1, 4), loop(0, 5))) == "3 ⊃ (2 ⊃ 6, 4), 5"
