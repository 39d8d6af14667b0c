from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.passes.infra import rolled_loop
from laser_fx.passes.pipeline import place_sites
from laser_fx.reporting.instruments.picture import picture_of
from laser_fx.reporting.measured import GraphPicture, PictureNode
from tests.small import WIDTH, model, step


def named(picture: GraphPicture) -> dict[str, PictureNode]:
    nodes = {node.name: node for node in picture.nodes}
    assert len(nodes) == len(picture.nodes)
    return nodes


def drawn_operators(graph_module: fx.GraphModule) -> Iterator[fx.Node]:
    """Operators that return tensors, of a graph and its loops."""
    for node in graph_module.graph.nodes:
        loop = rolled_loop(graph_module, node)
        if loop is not None:
            yield from drawn_operators(loop.body)
        elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor) and "getitem" not in node.name:
            yield node


def assert_whole(picture: GraphPicture) -> None:
    """Every edge ends at a node, and runs forwards; carries alone come from behind."""
    nodes = named(picture)
    place = {name: number for number, name in enumerate(nodes)}
    for name, node in nodes.items():
        assert all(place[source] < place[name] for source in node.inputs)
        assert set(node.carried) <= nodes.keys()


def test_every_operator_of_the_rolled_graph_is_drawn_once(trm: CompiledModel) -> None:
    picture = picture_of(trm.program)
    assert_whole(picture)
    drawn = [node for node in picture.nodes if node.kind == "operator" and node.shape]
    assert len(drawn) == len(list(drawn_operators(trm.program.rolled)))
    assert picture.left_out == 0


def test_loops_carries_and_sites_are_in_it(trm: CompiledModel) -> None:
    picture = picture_of(trm.program)
    carries = [node for node in picture.nodes if node.kind == "input" and node.loop]
    for loop in trm.loops.walk():
        held = [node for node in carries if node.loop == loop.name]
        assert [f"{node.label}: {node.shape}" for node in held] == list(loop.carry)
        assert all(node.inputs and node.carried for node in held)
    assert {n.site for n in picture.nodes} - {""} == {p.site.key for p in place_sites(trm.program, "forward")}
    assert all(n.label == "linear" for n in picture.nodes if n.site)
    outputs = [node for node in picture.nodes if node.kind == "output"]
    assert [node.label for node in outputs] == list(trm.program.output_names)
    assert all(node.inputs for node in outputs)


def test_a_long_graph_is_cut_and_says_so(trm: CompiledModel) -> None:
    whole, cut = picture_of(trm.program), picture_of(trm.program, most=20)
    assert_whole(cut)
    outputs = sum(node.kind == "output" for node in whole.nodes)
    assert len(cut.nodes) == 20 + outputs
    assert cut.left_out == len(whole.nodes) - len(cut.nodes)


def test_what_differs_by_step_is_an_input_of_the_body() -> None:
    def rows(self: Any, x: Tensor) -> Tensor:
        z = x
        for row in range(4):
            z = step(self, z, x[row])
        return z

    compiled = laser_fx.compile(model(rows), (torch.randn(5, WIDTH),), options=laser_fx.Options.exact())
    picture = picture_of(compiled.program)
    assert_whole(picture)
    streams = [node for node in picture.nodes if node.kind == "input" and node.loop and not node.carried]
    assert len(streams) == compiled.program.rolled.loop_0.varying_inputs - 1 > 0
    assert all(node.inputs for node in streams)


def test_a_graph_without_a_loop_is_drawn_too() -> None:
    def straight(self: Any, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    compiled = laser_fx.compile(model(straight), (torch.randn(3, WIDTH),), options=laser_fx.Options.exact())
    picture = picture_of(compiled.program)
    assert [(node.kind, node.label) for node in picture.nodes] == [
        ("input", "x"),
        ("operator", "linear"),
        ("operator", "tanh"),
        ("output", "output"),
    ]
