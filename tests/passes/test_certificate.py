from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from laser_fx.errors import PassError
from laser_fx.loops import Certificate
from laser_fx.passes.certificate import certify
from laser_fx.passes.infra import SET_GRAD
from laser_fx.passes.pipeline import _identities, _is_parameter
from laser_fx.program import Program
from laser_fx.rolled import RolledLoop
from tests.nests import CASES
from tests.small import WIDTH, exact, model, step


def compiled_program(forward: Callable[..., Any], *, training: bool = False) -> Program:
    return exact(model(forward).train(training), torch.randn(3, WIDTH)).program


def identities(program: Program) -> Mapping[str, Hashable]:
    return _identities(program.model, program.capture)


def certify_with(program: Program, rolled: fx.GraphModule) -> Certificate:
    parameters = frozenset(
        name for name, target in program.capture.states.items() if _is_parameter(program.model, target)
    )
    return certify(program.captured, rolled, identities(program), parameters, program.mode.grad_enabled)


def tampered(program: Program) -> tuple[fx.GraphModule, RolledLoop, dict[str, fx.Node]]:
    """A copy of the rolled graph, its first loop, and the nodes of that loop's body by name."""
    rolled = copy.deepcopy(program.rolled)
    loop = rolled.loop_0
    return rolled, loop, {node.name: node for node in loop.body.graph.nodes}


@pytest.mark.parametrize("name", ["three_deep", "output_of_every_inner_step", "row_by_step", "dropout"])
def test_it_accepts_what_reroll_made(name: str) -> None:
    program = compiled_program(CASES[name].forward)
    proof = certify_with(program, program.rolled)
    assert proof.operations > 0
    assert certify_with(program, copy.deepcopy(program.rolled)) == proof


def test_it_lists_what_was_looked_through() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = step(self, z.detach(), x)
        return z

    program = compiled_program(forward)
    proof = certify_with(program, program.rolled)
    assert [reason for _, reason in proof.looked_through] == ["aten.detach.default without gradients is its input"] * 3


def refused(
    program: Program, rolled: fx.GraphModule, why: str = "no such operation|leaves it out|is not the captured one"
) -> None:
    with pytest.raises(PassError, match=why):
        certify_with(program, rolled)


@pytest.mark.parametrize("trips", [3, 5])
def test_it_refuses_another_trip_count(trips: int) -> None:
    program = compiled_program(CASES["one_loop"].forward)
    rolled, loop, _ = tampered(program)
    loop.trip_count = trips
    refused(program, rolled)


def test_it_refuses_another_weight() -> None:
    program = compiled_program(CASES["one_loop"].forward)
    rolled, _, _ = tampered(program)
    nodes = {node.name: node for node in rolled.graph.nodes}
    nodes["loop_0"].replace_input_with(nodes["p_model_a_weight"], nodes["p_model_b_weight"])
    refused(program, rolled)


def test_it_refuses_operands_in_another_order() -> None:
    program = compiled_program(lambda self, x: [x := torch.tanh(self.a(x) - x) for _ in range(3)][-1])
    rolled, _, nodes = tampered(program)
    difference = nodes["sub"]
    difference.args = difference.args[::-1]
    refused(program, rolled)


def test_it_refuses_another_constant() -> None:
    program = compiled_program(lambda self, x: [x := torch.tanh(self.a(x) * 0.5) for _ in range(3)][-1])
    rolled, _, nodes = tampered(program)
    nodes["mul"].args = (nodes["mul"].args[0], 0.25)
    refused(program, rolled)


def test_it_refuses_the_output_of_another_step() -> None:
    program = compiled_program(CASES["some_steps_are_used"].forward)
    rolled, _, _ = tampered(program)
    taken = next(n for n in rolled.graph.nodes if n.op == "call_function" and n.args[1:] == (-2,))
    taken.args = (taken.args[0], -3)
    refused(program, rolled)


def test_it_refuses_per_step_values_in_another_order() -> None:
    program = compiled_program(CASES["row_by_step"].forward)
    rolled, _, _ = tampered(program)
    call = next(n for n in rolled.graph.nodes if n.op == "call_module")
    carry, first, second, *rest = call.args
    call.args = (carry, second, first, *rest)
    refused(program, rolled)


def test_it_refuses_another_grad_mode() -> None:
    program = compiled_program(CASES["gradient_through_the_last_step"].forward, training=True)
    rolled, _, _ = tampered(program)
    for switch in rolled.graph.find_nodes(op="call_function", target=SET_GRAD):
        switch.args = (True,)
    refused(program, rolled)


def test_it_refuses_another_number_of_outputs() -> None:
    program = compiled_program(CASES["two_back"].forward)
    rolled, _, _ = tampered(program)
    rolled.graph.output_node().args = ((),)
    refused(program, rolled, "returns 0 values, the captured one 1")


def test_it_refuses_random_draws_in_another_order() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            noisy = self.a(z) + torch.rand_like(z)
            z = torch.tanh(noisy * torch.rand_like(z))
        return z

    program = compiled_program(forward)
    rolled, _, nodes = tampered(program)
    first, second = (node for name, node in nodes.items() if name.startswith("rand_like"))
    first.prepend(second)
    rolled.loop_0.body.graph.lint()
    refused(program, rolled)


def test_it_refuses_a_draw_that_nothing_uses() -> None:
    program = compiled_program(CASES["one_loop"].forward)
    rolled, _, nodes = tampered(program)
    holder = next(node for node in nodes.values() if node.op == "placeholder")
    with rolled.loop_0.body.graph.inserting_after(nodes["tanh"]):
        extra = rolled.loop_0.body.graph.call_function(torch.ops.aten.rand_like.default, (holder,))
    extra.meta = dict(holder.meta)
    refused(program, rolled)


def test_it_says_where_and_in_which_step_it_lost_the_way() -> None:
    program = compiled_program(CASES["one_loop"].forward)
    rolled, loop, _ = tampered(program)
    loop.trip_count = 5
    refused(program, rolled, r"where: loop_0, step 4: linear")


def reads_twice(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(3):
        z = torch.tanh(self.a(z)) * torch.sigmoid(z)
    return z


def swap_readers(program: Program) -> fx.GraphModule:
    """The rolled graph, its sigmoid before its linear: the same values, the carry's gradient summed the other way."""
    rolled, loop, nodes = tampered(program)
    nodes["linear"].prepend(nodes["sigmoid"])
    loop.body.graph.lint()
    return rolled


def test_it_refuses_another_order_of_readers_where_gradients_are_summed() -> None:
    program = compiled_program(reads_twice, training=True)
    refused(program, swap_readers(program), "gradient would be summed in another order")


def test_without_gradients_the_order_of_readers_is_free() -> None:
    program = compiled_program(reads_twice)
    certify_with(program, swap_readers(program))


def test_it_refuses_one_node_for_two_where_gradients_tell_them_apart() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = torch.tanh(self.a(z)) + torch.tanh(self.a(z))
        return z

    for training in (False, True):
        program = compiled_program(forward, training=training)
        rolled, _, nodes = tampered(program)
        nodes["add"].args = (nodes["tanh"], nodes["tanh"])
        rolled.loop_0.body.graph.eliminate_dead_code()
        if training:
            refused(program, rolled)
        else:
            merged = certify_with(program, rolled).merged
            assert ("tanh_1", "tanh") in merged
