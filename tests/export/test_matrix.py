"""A part of the matrix of `tests.export.matrix`: each form × dtype × bases, on a family of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.export.matrix import BASES, DTYPES, FORMS, Cell, cells, run
from tests.export.operators import unlisted
from tests.families.registry import FAMILIES

SMALL = (
    "two_steps",
    "gru",
    "descent_per_step",
    "interleaved_evenly",
    "lstm",
    "two_loops_of_one_body",
    "last_step_is_shorter",
    "another_input_in_one_step",
    "first_step_is_shorter",
    "between_untied_layers",
    "equilibrium",
    "first_state_is_broadcast",
    "skip_carried",
    "descent",
    "automaton_sure",
    "repeated_module",
)
"""Families that are compiled in no time, one for each dtype and kind of bases."""

CHOSEN = [
    Cell(SMALL[(4 * row + column) % len(SMALL)], form, dtype, basis)
    for row, dtype in enumerate(DTYPES)
    for column, basis in enumerate(BASES)
    for form in FORMS
]
SEEN_TO_FAIL = [
    Cell("interleaved_evenly", "step", "bf16", "tracked"),  # opset 22, of which the functions of bases were not
    Cell("states_take_turns", "rolled", "fp16", "tracked"),  # a basis whose directions are rounding
]
OUTCOMES = {"equals eager", "verified in float32", "no site", "no step"}


def test_the_part_has_every_form_dtype_and_kind_of_bases() -> None:
    assert {(cell.form, cell.dtype, cell.basis) for cell in CHOSEN} == {(c.form, c.dtype, c.basis) for c in cells()}
    assert len(list(cells())) == len(FAMILIES) * len(CHOSEN)


@pytest.mark.parametrize("cell", [*CHOSEN, *SEEN_TO_FAIL], ids=str)
def test_a_file_answers_as_eager(cell: Cell, tmp_path: Path) -> None:
    result = run(cell, tmp_path)
    assert result.outcome in OUTCOMES
    assert (result.outcome == "no site") <= (cell.basis in ("frozen", "per_step"))
    assert (result.outcome == "no step") <= (cell.form == "step")
    assert unlisted(result.operators) == set(), "add them to tests/export/operators.py"
    assert not any(path.name.startswith(".") for path in tmp_path.iterdir()), "nothing half-written is left"
