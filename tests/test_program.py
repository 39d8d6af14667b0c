from __future__ import annotations

import pytest
import torch

import laser_fx
from laser_fx.errors import InputError
from laser_fx.options import Options
from laser_fx.program import Program, flat_record
from tests.small import Contractive, low_rank, same


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return laser_fx.compile(
        Contractive().eval(), (low_rank(2, 24, 32),), options=Options(fidelity=0.99, sites="all")
    ).program


def test_every_placeholder_has_its_tensor(program: Program) -> None:
    known = {*program.weights, *program.user_inputs, "fidelity"}
    for graph_module in (program.captured, program.rolled, program.graph_module):
        assert {n.name for n in graph_module.graph.find_nodes(op="placeholder")} <= known
    assert program.weights["p_model_up_weight"] is program.model.up.weight


def test_names_are_readable(program: Program) -> None:
    assert (program.input_names, program.user_inputs, program.output_names) == (("x",), ("in_x",), ("output",))


def test_all_its_graphs_compute_the_same_but_for_the_fidelity(program: Program) -> None:
    with torch.no_grad():
        (captured,) = program.run_graph(program.captured, program.example_inputs)
        (rolled,) = program.run_graph(program.rolled, program.example_inputs)
        tracked, *records = program.run_graph(program.graph_module, program.example_inputs)
        expected = program.model(*program.example_inputs)
    assert same(captured, expected)
    assert same(rolled, expected)
    assert (tracked - expected).norm() < 0.1 * expected.norm()
    assert len(records) == len(program.record_names) == 2


def test_records_are_steps(program: Program) -> None:
    _, records = program.run(program.capture.call)
    steps = program.steps(records)
    assert steps.keys() == {"loop_0:up", "loop_0:down"}
    first, *_ = steps["loop_0:up"]
    assert first.reset
    assert first.fidelity >= 0.99
    assert 0 < first.rank <= 32


def test_the_sketches_are_the_same_each_time(program: Program) -> None:
    again = laser_fx.compile(program.model, program.example_inputs, options=program.options).program
    assert same(dict(again.constants), dict(program.constants))


def test_it_restores_the_grad_mode(program: Program) -> None:
    with torch.enable_grad():
        program.run(program.capture.call)
        assert torch.is_grad_enabled()


def test_a_weight_that_is_gone_is_named() -> None:
    module, x = Contractive().eval(), low_rank(4, 32)
    program = laser_fx.compile(module, (x,), options=Options.exact()).program
    module.up._parameters["bias"] = None
    with torch.no_grad(), pytest.raises(InputError, match=r"up\.bias was a tensor") as raised:
        program.run_graph(program.graph_module, (x,))
    assert raised.value.where == "Contractive.up.bias"


def test_a_record_is_flat_in_the_order_of_execution() -> None:
    nested = [[torch.tensor(0), torch.tensor(1)], [torch.tensor(2), torch.tensor(3)]]
    assert [int(value) for value in flat_record(nested)] == [0, 1, 2, 3]
