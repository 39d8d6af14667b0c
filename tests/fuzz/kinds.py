"""The kinds of case: how each is made, what must hold of it, and the script that shows that it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from laser_fx.passes.reroll import Rolled
from tests.fuzz.check import equals_eager, explains_itself, finds_the_nest, refuses_tampering
from tests.fuzz.program import Case, cases, clean_cases
from tests.fuzz.script import model_source, script

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Args:
        share: of all cases, in thousandths.
        examples: makes them.
        check: raises where what must hold does not; returns what the case turned out to be.
        script: (example, title) → a standalone script.
    """

    share: int
    examples: st.SearchStrategy[Any]
    check: Callable[[Any], str]
    script: Callable[[Any, str], str]


def _loops(rolled: Rolled) -> str:
    found = len(rolled.nest.trips())
    return "4 loops or more" if found > 3 else f"{found} loop" + ("" if found == 1 else "s")


def _end_to_end(case: Case) -> str:
    scope: dict[str, Any] = {"__name__": "fuzzed"}
    exec(model_source(case), scope)
    defects = list(scope["defects"]())
    assert not defects, "; ".join(defects)
    return "training" if case.training else "evaluation"


def _tampered(example: tuple[Case, tuple[int, int]]) -> str:
    return "refused" if refuses_tampering(*example) else "no defect in the results"


KINDS = {
    "nests": Kind(430, cases(), lambda case: _loops(equals_eager(case)), script),
    "near-loops": Kind(300, cases(mutated=True), lambda case: _loops(explains_itself(case)), script),
    "clean nests": Kind(
        100,
        clean_cases(),
        lambda case: _loops(finds_the_nest(case)),
        lambda case, title: script(case, title, nest=True),
    ),
    "tampered graphs": Kind(
        150,
        st.tuples(cases(), st.tuples(st.integers(0, 5), st.integers(0, 60))),
        _tampered,
        lambda example, title: script(example[0], title, choices=example[1]),
    ),
    "end to end": Kind(20, cases() | cases(mutated=True), _end_to_end, script),
}
