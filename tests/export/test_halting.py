"""The halting head in the loop's body: what is found there, and what is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import fx

from laser_fx.errors import ExportError, OptionError
from laser_fx.export.build import build
from laser_fx.export.halting import body_of, halting_in_body, outermost_loop
from tests.export.conftest import HandMade
from tests.export.halting_programs import halting

Make = Callable[..., Any]


def built(program: HandMade) -> ir.Graph:
    return build(program, "rolled", depth_inputs=True, opset=20)[0].graph


def output_of(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.outputs if value.name == name)


def done_at_every_step(program: HandMade, name: str = "halt_logits") -> np.ndarray[Any, Any]:
    """(steps, batch): the value in the body, as ONNX Runtime computes it, made a scan output."""
    model = build(program, "rolled", depth_inputs=True, opset=20)[0]
    graph, loop = model.graph, outermost_loop(model.graph)
    done = halting_in_body(graph, loop, output_of(graph, name))
    body_of(loop).outputs.append(done)
    loop.resize_outputs(len(loop.outputs) + 1)
    scanned = loop.outputs[-1]
    scanned.name, scanned.type, scanned.shape = "scanned", ir.TensorType(ir.DataType.BOOL), None
    graph.outputs.append(scanned)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    feed = {n: x.numpy() for n, x in zip(program.input_names, program.example_inputs, strict=True)}
    return session.run(["scanned"], feed)[0]


@pytest.mark.parametrize("kind", ["logits", "bool", "half", "step"])
def test_the_head_says_at_every_step_what_it_says_at_the_last(kind: str) -> None:
    wanted = [[trips >= needed for needed in (2, 4, 3)] for trips in range(1, 7)]
    assert done_at_every_step(halting(kind=kind)).tolist() == wanted


def test_what_is_cloned_is_named_after_the_loop_and_keeps_the_main_graph() -> None:
    graph = built(halting())
    before = [node.name for node in graph]
    inside = {node.name for node in body_of(outermost_loop(graph))}
    halting_in_body(graph, outermost_loop(graph), output_of(graph, "halt_logits"))
    added = [node for node in body_of(outermost_loop(graph)) if node.name not in inside]
    assert [node.op_type for node in added] == ["Sub", "Greater"]
    assert all(node.name.startswith("loop_0/halting/") for node in added)
    assert sorted(before) == sorted(node.name for node in graph)


def test_a_threshold_is_read_from_the_main_graph() -> None:
    graph = built(halting(kind="half"))
    at = ir.Value(name="at", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([]))
    graph.inputs.append(at)
    done = halting_in_body(graph, outermost_loop(graph), output_of(graph, "halt_logits"), at)
    assert [node.op_type for node in at.consumers()] == ["Cast"]
    assert done.dtype is ir.DataType.BOOL


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("y", OptionError, r"\(batch, 3, 16\), not \(batch,\)"),
        ("first", OptionError, r"not \(batch,\)"),
        ("extra", OptionError, r"\(batch, 3\), not \(batch,\)"),
    ],
)
def test_an_output_of_another_shape_is_refused(name: str, error: type[Exception], words: str) -> None:
    graph = built(halting())
    with pytest.raises(error, match=words):
        halting_in_body(graph, outermost_loop(graph), output_of(graph, name))


def with_head(program: HandMade, make_head: Callable[[fx.Graph, list[fx.Node]], fx.Node]) -> ir.Graph:
    """The graph of a program whose halting output is made anew."""
    module = program.graph_module
    out = module.graph.output_node()
    results = {n.args[1]: n for n in module.graph.nodes if n.op == "call_function" and n.target is operator.getitem}
    placeholders = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_before(out):
        head = make_head(module.graph, [*(results[i] for i in range(4) if i in results), *placeholders])
    out.args = ((out.args[0][0], head, *out.args[0][2:]),)
    module.recompile()
    for node in module.graph.nodes:
        if "val" not in node.meta and node.op == "call_function":
            values = fx.map_arg(node.args, lambda n: n.meta["val"])
            with placeholders[0].meta["val"].fake_mode:
                node.meta["val"] = node.target(*values, **node.kwargs)
    return built(program)


def test_a_step_that_is_not_the_last_is_refused() -> None:
    graph = with_head(
        halting(kind="step"),
        lambda graph, values: graph.call_function(operator.getitem, (values[3], 2)),
    )
    with pytest.raises(ExportError, match="another step than the last"):
        halting_in_body(graph, outermost_loop(graph), output_of(graph, "halt_logits"))


def test_all_steps_at_once_are_refused() -> None:
    graph = built(halting(kind="step"))
    loop, head = outermost_loop(graph), output_of(graph, "halt_logits")
    whole = loop.outputs[3]
    summed = ir.node("ReduceSum", [whole], name="sum")
    assert whole.name == "loop_0.3"
    summed.outputs[0].name, summed.outputs[0].type, summed.outputs[0].shape = "total", head.type, head.shape
    graph.append(summed)
    graph.outputs[1] = summed.outputs[0]
    with pytest.raises(ExportError, match="reads all steps") as caught:
        halting_in_body(graph, loop, summed.outputs[0])
    assert "sum" in str(caught.value)


def test_a_head_that_no_step_changes_is_refused() -> None:
    graph = with_head(halting(), lambda graph, values: graph.call_function(torch.neg, (values[-1],)))
    with pytest.raises(ExportError, match="the same after every step"):
        halting_in_body(graph, outermost_loop(graph), output_of(graph, "halt_logits"))


def test_whole_numbers_are_refused() -> None:
    graph = with_head(halting(), lambda graph, values: graph.call_function(torch.Tensor.long, (values[1],)))
    with pytest.raises(OptionError, match="INT64, neither floating nor bool"):
        halting_in_body(graph, outermost_loop(graph), output_of(graph, "halt_logits"))


def test_a_graph_needs_exactly_one_outermost_loop(make: Make) -> None:
    with pytest.raises(ExportError, match="2 outermost loops") as caught:
        outermost_loop(built(make("two_loops")))
    assert "loop_0, loop_1" in str(caught.value)
    flat = build(make("one_loop"), "unrolled", depth_inputs=False, opset=20)[0].graph
    with pytest.raises(ExportError, match="no loop"):
        outermost_loop(flat)


@pytest.mark.parametrize("reads_the_loop", [True, False])
def test_a_branch_may_be_read_but_not_copied(reads_the_loop: bool) -> None:
    graph = built(halting())
    loop, head = outermost_loop(graph), output_of(graph, "halt_logits")
    read = loop.outputs[1] if reads_the_loop else next(v for v in graph.inputs if v.name == "speed")
    branches = {}
    for name in ("then_branch", "else_branch"):
        node = ir.node("Neg", [read], name=name)
        node.outputs[0].name = name
        branches[name] = ir.Graph([], node.outputs, nodes=[node], name=name)
    yes = ir.node("Constant", [], {"value": ir.tensor(np.array(True))}, name="yes")
    branch = ir.node("If", [yes.outputs[0]], branches, name="branch")
    both = ir.node("Add", [head, branch.outputs[0]], name="both")
    for node in (yes, branch, both):
        node.outputs[0].name = f"{node.name}_value"
    both.outputs[0].type, both.outputs[0].shape = head.type, head.shape
    graph.extend([yes, branch, both])
    graph.outputs.append(both.outputs[0])
    if reads_the_loop:
        with pytest.raises(ExportError, match="passes through If"):
            halting_in_body(graph, loop, both.outputs[0])
    else:
        done = halting_in_body(graph, loop, both.outputs[0])
        assert branch.outputs[0] in done.producer().inputs[0].producer().inputs
