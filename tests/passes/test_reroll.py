from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

import laser_fx
from laser_fx.errors import NoLoopWarning, PassError
from laser_fx.options import Options
from laser_fx.passes.infra import SET_GRAD, count_nodes, finish, getitem
from laser_fx.passes.reroll import reroll
from laser_fx.program import Program
from laser_fx.rolled import RolledLoop
from laser_fx.zoo.trm import Solve
from tests.nests import CASES
from tests.small import WIDTH, exact, found, model, small_trm, trm_batch


def rolled(name: str, *, training: bool = False) -> Program:
    return exact(model(CASES[name].forward).train(training), torch.randn(3, WIDTH)).program


def targets(graph_module: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph_module.graph.nodes if node.op == "call_function"]


def holders(graph_module: fx.GraphModule) -> list[str]:
    return [node.name for node in graph_module.graph.nodes if node.op == "placeholder"]


def test_the_body_is_one_step() -> None:
    program = rolled("one_loop")
    loop = program.rolled.loop_0
    assert isinstance(loop, RolledLoop)
    assert (loop.trip_count, loop.carry_count, loop.per_step_count) == (4, 1, 0)
    aten = torch.ops.aten
    assert targets(loop.body) == [aten.linear.default, aten.add.Tensor, aten.tanh.default]
    assert program.nest.loops[0].body is loop.body


def test_a_body_takes_carry_then_per_step_values_then_weights() -> None:
    program = rolled("row_by_step")
    assert holders(program.rolled.loop_0.body) == ["carry_in_x", "step_select", "p_model_a_weight", "p_model_a_bias"]
    call = program.rolled.graph.find_nodes(op="call_module", target="loop_0")[0]
    assert [str(a) for a in call.args][1:5] == ["select", "select_1", "select_2", "select_3"]
    assert program.nest.loops[0].carry[0].startswith("carry_in_x: float32[s")


def test_the_nest_says_what_each_loop_reads_and_gives() -> None:
    (loop,) = rolled("prediction_of_every_step").nest.loops
    assert loop.parameters == ("a.weight", "a.bias", "b.weight")
    assert len(loop.carry) == len(loop.invariants) == len(loop.step_outputs) == 1


def test_placeholders_and_outputs_are_those_of_the_captured_graph() -> None:
    program = rolled("other_outputs")
    assert holders(program.rolled) == holders(program.captured)
    assert len(program.rolled.graph.output_node().args[0]) == len(program.captured.graph.output_node().args[0])


def test_every_node_has_a_fake_value_but_the_switches_of_grad_mode() -> None:
    def check(level: fx.GraphModule) -> None:
        for node in level.graph.nodes:
            assert node.op == "output" or node.target is SET_GRAD or "val" in node.meta, node
            if node.op == "call_module":
                check(level.get_submodule(node.target).body)

    for name in ("three_deep", "output_of_every_inner_step", "gradient_through_the_last_step"):
        check(rolled(name, training=True).rolled)


def test_no_tensor_is_an_attribute() -> None:
    program = rolled("three_deep")
    assert not list(program.rolled.parameters())
    assert not list(program.rolled.buffers())
    assert not program.rolled.graph.find_nodes(op="get_attr")


def test_the_grad_mode_is_switched_around_a_region_and_back() -> None:
    program = rolled("gradient_through_the_last_step", training=True)
    switches = [node.args[0] for node in program.rolled.graph.nodes if node.target is SET_GRAD]
    assert switches == [False, True]
    assert not program.nest.loops[0].grad_enabled
    x = torch.randn(3, WIDTH)
    with torch.no_grad():
        program.run_graph(program.rolled, (x,))
        assert not torch.is_grad_enabled()


def test_a_size_is_read_off_an_input_of_the_body() -> None:
    program = rolled("sizes_in_the_body")
    body = program.rolled.loop_0.body
    (size,) = (node for node in body.graph.nodes if node.target is torch.ops.aten.sym_size.int)
    assert size.args[0].op == "placeholder"
    assert not any(
        isinstance(a, (int, torch.SymInt)) for a in program.rolled.graph.find_nodes(op="call_module")[0].args
    )


def test_a_result_is_taken_once() -> None:
    for name in ("some_steps_are_used", "output_of_every_inner_step", "three_deep"):
        graph = rolled(name).rolled.graph
        taken = [node.args for node in graph.nodes if node.target is getitem]
        assert len(taken) == len(set(taken))


def test_the_graph_shrinks_to_a_few_nodes() -> None:
    program = rolled("three_deep")
    assert count_nodes(program.rolled) < len(program.captured.graph.nodes)
    assert len(program.rolled.graph.nodes) < len(program.captured.graph.nodes) / 3


def test_two_carries_from_one_value_are_two_inputs() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z, h = x, x
        for _ in range(3):
            z = torch.tanh(self.a(z) + h)
            h = torch.relu(self.b(h) + z)
        return h

    program = exact(model(forward), torch.randn(3, WIDTH)).program
    assert holders(program.rolled.loop_0.body)[:2] == ["carry_in_x", "carry_in_x_1"]


def test_a_malformed_graph_is_a_defect_of_the_pass() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    later = graph.call_function(torch.tanh, (x,))
    x.prepend(later)
    graph.output((later,))
    with pytest.raises(PassError, match="made a malformed graph"):
        finish(torch.nn.Module(), graph, "Broken")


def test_a_loop_inside_another_names_a_line_of_its_own() -> None:
    solve = Solve(small_trm(), 3).eval()
    compiled = laser_fx.compile(solve, (trm_batch(4)["inputs"],), options=Options.exact())
    sources = [loop.source for loop in compiled.loops.walk()]
    assert len(set(sources)) == 3
    assert all(source is not None and source.startswith("zoo/trm.py:") for source in sources)


def test_a_graph_without_a_loop_is_not_copied() -> None:
    captured, view, block = found(model(CASES["untied_layers"].forward), torch.randn(3, WIDTH))
    assert reroll(captured.graph_module, view, block, captured.states, False).graph_module is captured.graph_module


def test_a_rewrite_that_is_not_proved_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def certify(*arguments: Any) -> None:
        raise PassError("the captured graph has no such operation", where="loop_0, step 3: add")

    monkeypatch.setattr("laser_fx.passes.roll.certify", certify)
    module, x = model(CASES["one_loop"].forward), torch.randn(3, WIDTH)
    compiled = laser_fx.compile(module, options=Options.exact())
    with torch.no_grad(), pytest.warns(NoLoopWarning, match="runs as it is: .* not proved: .* no such operation"):
        assert torch.equal(compiled(x), module(x))
    assert compiled.program.certificate is None


def turning_halves(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Steps that begin with a split, after a loop that ends as they do."""
    z, other = x, x
    for _ in range(2):
        z = torch.tanh(self.a(z + z))
    for _ in range(3):
        first, second = z.split(WIDTH // 2, -1)
        z = torch.tanh(self.a(torch.cat([second, first], -1)))
        z, other = other, z
    return z, other


def test_steps_hand_on_tensors_and_no_tuples_where_they_may_begin_elsewhere() -> None:
    program = exact(model(turning_halves), torch.randn(3, WIDTH)).program
    loops = [module for module in program.rolled.modules() if isinstance(module, RolledLoop)]
    assert loops
    for loop in loops:
        inputs = loop.body.graph.find_nodes(op="placeholder")
        assert all(isinstance(node.meta["val"], Tensor) for node in inputs)
