"""What is the same at each step is computed once, before the loop; nothing else moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.export import OnnxModel, to_onnx
from laser_fx.export.hoist import hoist_invariants
from tests.export.files import graphs

Make = Callable[..., Any]


class _Injected(nn.Module):
    """An inner loop that adds what only the outer one changes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        z = torch.zeros_like(x)
        for _ in range(3):
            for _ in range(4):
                z = torch.tanh(self.layer(z) + (h + torch.sin(x)))
            h = torch.tanh(self.layer(h + z))
        return h


def _names(model: onnx.ModelProto) -> list[list[str]]:
    """Operators of the main graph, the outer body, the inner body."""
    return [[node.op_type for node in graph.node] for graph in graphs(model.graph)]


def test_a_value_leaves_the_loops_that_do_not_change_it(
    tmp_path: Path,
) -> None:
    x = torch.randn(2, 8)
    compiled = laser_fx.compile(_Injected().eval(), (x, x), options=laser_fx.Options.exact())
    file = compiled.to_onnx(tmp_path / "m.onnx")
    main, outer, inner = _names(onnx.load(file.path))
    assert "Sin" in main
    assert "Sin" not in outer + inner
    assert inner.count("Add") == 1  # h + sin(x) is made in the outer body
    assert file.verification is not None
    assert file.verification.max_error < 1e-6


def test_hoisting_changes_no_bit(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    program = make("nested")
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    hoisted = OnnxModel(to_onnx(program, tmp_path / "a.onnx").path, session_options=settings)
    monkeypatch.setattr("laser_fx.export.build.hoist_invariants", lambda graph: None)
    plain = OnnxModel(to_onnx(program, tmp_path / "b.onnx").path, session_options=settings)
    expected, actual = plain(*program.example_inputs), hoisted(*program.example_inputs)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_random_numbers_results_constants_and_nodes_with_graphs_stay() -> None:
    count, go_on = ir.val("count", ir.DataType.INT64, []), ir.val("go_on", ir.DataType.BOOL, [])
    outside = ir.val("x", ir.DataType.FLOAT, [2])
    step, keep, carry = (
        ir.val("step", ir.DataType.INT64, []),
        ir.val("keep", ir.DataType.BOOL, []),
        ir.val("z", ir.DataType.FLOAT, [2]),
    )
    noise = ir.node("RandomNormalLike", [outside], name="noise")
    moves = ir.node("Exp", [outside], name="moves")
    after = ir.node("Neg", [moves.outputs[0]], name="after")
    weight = ir.val("w", const_value=ir.tensor([1.0, 2.0], name="w"))
    folded, used = ir.node("Neg", [weight], name="folded"), ir.node("Abs", [weight], name="used")
    reads = ir.node("Mul", [used.outputs[0], outside], name="reads")
    branch = ir.node("If", [go_on], {"then_branch": _constant(), "else_branch": _constant()}, name="branch")
    summands = [node.outputs[0] for node in (noise, after, branch, folded, reads)]
    added = ir.node("Sum", [carry, *summands], name="added")
    result, kept = ir.node("Identity", [outside], name="result"), ir.node("Identity", [keep], name="kept")
    body = ir.Graph(
        [step, keep, carry],
        [kept.outputs[0], added.outputs[0], result.outputs[0]],
        nodes=[added, after, noise, moves, branch, folded, reads, used, result, kept],
        name="body",
    )
    loop = ir.Node("", "Loop", [count, go_on, outside], [ir.AttrGraph("body", body)], num_outputs=2, name="loop_0")
    graph = ir.Graph([count, go_on, outside], list(loop.outputs), nodes=[loop], opset_imports={"": 20}, name="main")
    hoist_invariants(graph)
    assert [node.name for node in graph] == ["moves", "after", "used", "reads", "loop_0"]
    assert {node.name for node in body} == {"noise", "branch", "added", "folded", "result", "kept"}


def _constant() -> ir.Graph:
    node = ir.node("Constant", [], {"value_floats": [0.0, 1.0]})
    return ir.Graph([], [node.outputs[0]], nodes=[node], name="branch")
