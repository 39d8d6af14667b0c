from __future__ import annotations

import pytest

from laser_fx.loops import Loop, LoopNest, Site

NEST = LoopNest(
    (
        Loop("loop_0", 3, carry=("a", "b"), children=(Loop("loop_0_0", 6), Loop("loop_0_1", 2, per_step=("e",)))),
        Loop("loop_1", 4, step_outputs=("y",), source="model.py:7"),
    )
)


def test_loops_are_walked_from_outside_in_program_order() -> None:
    assert [loop.name for loop in NEST.walk()] == ["loop_0", "loop_0_0", "loop_0_1", "loop_1"]
    assert NEST.trips() == ((0, 3), (1, 6), (1, 2), (0, 4))


def test_the_tree_has_a_line_for_each_loop() -> None:
    assert NEST.tree().splitlines() == [
        "loop_0 × 3  carry 2, invariants 0",
        "  loop_0_0 × 6  carry 0, invariants 0",
        "  loop_0_1 × 2  carry 0, invariants 0, per step 1",
        "loop_1 × 4  carry 0, invariants 0, step outputs 1  model.py:7",
    ]


@pytest.mark.parametrize(("nest", "some"), [(NEST, True), (LoopNest(), False)])
def test_a_nest_without_loops_is_false(nest: LoopNest, some: bool) -> None:
    assert bool(nest) is some


def test_a_site_has_a_key_of_its_own_in_each_loop() -> None:
    site = Site("mlp.up", "loop_0", "mlp.up.weight", 10, 8, 16, 3)
    assert (site.key, site.shape) == ("loop_0:mlp.up", (10, 8))
