"""What a node says of itself, and how graphs print."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, fx, nn

import laser_fx
from laser_fx import CompiledModel, Options
from laser_fx.marks import MARK, Mark, mark_loops, printable
from laser_fx.nodes import LOOP_SOURCE
from laser_fx.passes.infra import rolled_loop
from laser_fx.readable import ReadableModule, readable
from laser_fx.rolled import RolledLoop
from tests.small import Contractive


@pytest.fixture(scope="module")
def tracked() -> CompiledModel:
    torch.manual_seed(0)
    with torch.no_grad():
        return laser_fx.compile(Contractive().eval(), (torch.randn(8, 32),), options=Options(sites="all"))


class Nested(nn.Module):
    """Two steps around three."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        z, y = x, x
        for _ in range(2):
            for _ in range(3):
                z = torch.tanh(self.up(z + y))
            y = torch.tanh(self.down(y + z))
        return y


def in_loops(level: fx.GraphModule, name: str = "") -> Iterator[tuple[str, fx.Node]]:
    for node in level.graph.nodes:
        loop = rolled_loop(level, node)
        if name:
            yield loop.name if loop else name, node
        if loop is not None:
            yield from in_loops(loop.body, loop.name)


def test_every_node_of_a_loop_says_where_it_is_and_who_made_it(tracked: CompiledModel) -> None:
    nodes = [(loop, node) for loop, node in in_loops(tracked.graph_module) if node.op != "output"]
    assert {node.meta[MARK].loop for _, node in nodes} == {loop for loop, _ in nodes} == {"loop_0"}
    assert {node.meta[MARK].made_by for _, node in nodes} == {"reroll", "insert_tracking"}
    made = {node.meta[MARK] for _, node in nodes if node.name in ("track_up", "fold_up", "linear_up")}
    assert made == {Mark("loop_0", "loop_0:up", "insert_tracking")}


def test_a_linear_of_the_exact_graph_bears_its_site(tracked: CompiledModel) -> None:
    linears = [n for _, n in in_loops(tracked.program.rolled) if n.target is torch.ops.aten.linear.default]
    assert [node.meta[MARK].site for node in linears] == [site.key for site in tracked.sites]


def test_what_stands_for_a_linear_keeps_the_line_of_its_code(tracked: CompiledModel) -> None:
    (node,) = [node for _, node in in_loops(tracked.graph_module) if node.name == "track_up"]
    assert node.stack_trace is not None
    assert "small.py" in node.stack_trace


def test_a_captured_node_outside_of_loops_has_no_mark(tracked: CompiledModel) -> None:
    captured = [node for node in tracked.graph_module.graph.nodes if node.op == "call_function" and node.stack_trace]
    assert captured
    assert all(MARK not in node.meta for node in captured)
    assert all(MARK not in node.meta for node in tracked.program.captured.graph.nodes)


def test_nested_loops_print_inside_one_another() -> None:
    compiled = laser_fx.compile(Nested().eval(), (torch.ones(4, 8),), options=Options.exact())
    text = readable(compiled.graph_module)
    outer, inner = compiled.loops.walk()
    assert f"\n    # loop_0 runs 2 times — {outer.source}\n    class loop_0(torch.nn.Module):\n" in text
    assert f"\n        # loop_0_0 runs 3 times — {inner.source}\n        class loop_0_0(torch.nn.Module):\n" in text
    assert "# laser_fx: site loop_0_0:up, by reroll # File: " in text
    assert "# laser_fx: site loop_0:down, by reroll # File: " in text


def test_print_readable_prints_the_same_and_is_python(
    tracked: CompiledModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(tracked.graph_module, ReadableModule)
    text = tracked.graph_module.print_readable()
    assert capsys.readouterr().out == f"{text}\n"
    classes = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)]
    assert classes == ["Tracked", "loop_0"]
    assert tracked.graph_module.print_readable(False, additional_meta=["grad_enabled"]).count("grad_enabled: ") > 10


def test_the_segments_of_a_plan_are_printed() -> None:
    model, x = Nested().train(), torch.ones(4, 8)
    compiled = laser_fx.compile(model, (x,), options=Options.exact(memory="min"))
    text = readable(compiled.graph_module)
    assert "# segment_loop_0_0.graph" in text
    assert "torch.ops.aten.tanh.default" in text
    ast.parse(text)


def test_a_piece_of_a_split_loop_is_marked_by_its_own_name() -> None:
    graph = fx.Graph()
    graph.output((graph.call_function(torch.relu, (graph.placeholder("z"),)),))
    body = fx.GraphModule(nn.Module(), graph)
    for node in body.graph.nodes:
        node.meta[MARK] = Mark("loop_0", "loop_0:up", "reroll")
    root, outer = nn.Module(), fx.Graph()
    root.add_module("loop_0_from_6", RolledLoop("loop_0_from_6", body, 2, 1))
    call = outer.call_module("loop_0_from_6", (outer.placeholder("z"),))
    outer.output((call,))
    mark_loops(fx.GraphModule(root, outer), "split_loops", sources={"loop_0_from_6": "net.py:3"})
    assert {n.meta[MARK] for n in body.graph.nodes} == {Mark("loop_0_from_6", "loop_0_from_6:up", "reroll")}
    assert (call.meta[MARK].made_by, call.meta[LOOP_SOURCE]) == ("split_loops", "net.py:3")


def test_a_name_stays_inside_of_its_comment() -> None:
    mark = Mark("loop_0", "loop_0:up\nimport os", "reroll")
    assert str(mark) == r"site loop_0:up\nimport os, by reroll"
    assert printable("übung — mlp") == "übung — mlp"
