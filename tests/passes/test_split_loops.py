"""A loop that is split computes what it did, step by step, and its pieces have their own names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.split_loops import Piece, split_loops
from laser_fx.program import Program
from tests.nests import CASES
from tests.small import WIDTH, Contractive, StructuredContractive, exact, model, same, small_trm, trm_batch


def run(program: Program, starts: dict[str, tuple[int, ...]], *inputs: Tensor) -> Any:
    split = split_loops(program.rolled, program.nest, starts)
    with torch.no_grad():
        expected = program.run_graph(program.rolled, inputs)
        assert same(list(program.run_graph(split.graph_module, inputs)), list(expected))
    return split


def test_the_pieces_compute_what_the_whole_did() -> None:
    x = torch.randn(5, 32)
    split = run(exact(Contractive(), x).program, {"loop_0": (0, 2, 5)}, x)
    assert [(loop.name, loop.trip_count) for loop in split.nest.walk()] == [
        ("loop_0", 2),
        ("loop_0_from_2", 3),
        ("loop_0_from_5", 1),
    ]
    assert split.pieces["loop_0_from_2"] == Piece("loop_0", 2, 5)


@pytest.mark.parametrize("name", sorted(CASES))
def test_any_nest_can_be_split(name: str) -> None:
    x = torch.randn(3, WIDTH)
    program = exact(model(CASES[name].forward), x).program
    starts = {loop.name: (0, 1) for loop in program.nest.loops if loop.trip_count > 1}
    split = run(program, starts, x)
    assert len(split.nest.loops) == 2 * len(starts)


def test_loops_inside_are_renamed_with_the_outermost_one() -> None:
    trm, batch = small_trm(), trm_batch(3)
    program = exact(trm, trm.initial_carry(batch), batch).program
    split = run(program, {"loop_0": (0, 1)}, *program.example_inputs)
    assert [loop.name for loop in split.nest.walk()] == ["loop_0", "loop_0_0", "loop_0_from_1", "loop_0_from_1_0"]
    assert split.pieces["loop_0_from_1_0"] == Piece("loop_0_0", 1, 2)
    keys = [p.site.key for p in find_sites(split.graph_module, program.capture.states)]
    assert len(keys) == len(set(keys)) == 2 * len(program.sites)


def test_stacked_values_and_outputs_are_parted() -> None:
    x = torch.randn(5, 32)
    split = run(exact(StructuredContractive(), x).program, {"loop_0": (0, 4)}, x)
    assert [loop.trip_count for loop in split.nest.loops] == [4, 2]

    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, rows: Tensor) -> Any:
            def body(i: Tensor, z: Tensor, row: Tensor) -> Any:
                z = torch.tanh(self.a(z) + row)
                return z, z.mean(-1)

            return laser_fx.loop(body, x, 5, per_step=(rows,), collect=True)

    inputs = torch.randn(3, WIDTH), torch.randn(5, 3, WIDTH)
    run(exact(Streams().eval(), *inputs).program, {"loop_0": (0, 2, 3)}, *inputs)


def test_steps_that_are_read_one_by_one_are_found_in_their_piece() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        z, kept = x, []
        for _ in range(5):
            z = torch.tanh(self.a(z) + x)
            kept.append(z * 2)
        return z, kept[0], kept[3], kept[4]

    x = torch.randn(3, WIDTH)
    run(exact(model(forward), x).program, {"loop_0": (0, 2, 4)}, x)


def test_the_given_graph_is_untouched() -> None:
    x = torch.randn(5, 32)
    program = exact(Contractive(), x).program
    before = program.rolled.code, program.rolled.loop_0.body.code
    split_loops(program.rolled, program.nest, {"loop_0": (0, 2)})
    assert before == (program.rolled.code, program.rolled.loop_0.body.code)
