from __future__ import annotations

from typing import Any

import torch
from torch import fx

from laser_fx.rolled import RolledLoop


def test_per_step_values_come_all_steps_of_the_first_then_all_of_the_second() -> None:
    def body(z: Any, a: Any, b: Any, x: Any) -> Any:
        return z * a + b + x, a - b

    loop = RolledLoop("loop_0", fx.symbolic_trace(body), trip_count=3, carry_count=1, per_step_count=2)
    a, b = [2, 3, 4], [10, 20, 30]
    final, differences = loop(1, *a, *b, 100)
    z = 1
    for s, t in zip(a, b, strict=True):
        z = z * s + t + 100
    assert (final, differences) == (z, [-8, -17, -26])


def test_step_outputs_nest_as_loops_do() -> None:
    def inner(z: Any) -> Any:
        return z + 1, z

    root = torch.nn.Module()
    root.add_module("loop_0_0", RolledLoop("loop_0_0", fx.symbolic_trace(inner), trip_count=2, carry_count=1))
    graph = fx.Graph()
    call = graph.call_module("loop_0_0", (graph.placeholder("z"),))
    results = [graph.call_function(lambda values, i: values[i], (call, i)) for i in (0, 1)]
    graph.output(tuple(results))
    outer = RolledLoop("loop_0", fx.GraphModule(root, graph), trip_count=3, carry_count=1)
    assert outer(0) == (6, [[0, 1], [2, 3], [4, 5]])


def test_it_says_how_often_it_runs() -> None:
    loop = RolledLoop("loop_0", fx.symbolic_trace(lambda z: (z,)), trip_count=5, carry_count=1)
    assert "loop_0, trip_count=5, carry_count=1" in repr(loop)


def test_stacked_values_go_in_row_by_row_and_come_out_stacked() -> None:
    def body(z: Any, a: Any, u: Any, x: Any) -> Any:
        z = z * a + u + x
        return z, -a, z * 2

    counts = {"trip_count": 3, "carry_count": 1, "per_step_count": 1, "stacked_count": 1, "stacked_outputs": 1}
    loop = RolledLoop("loop_0", fx.symbolic_trace(body), **counts)
    assert (loop.varying_arguments, loop.varying_inputs) == (5, 3)
    u = torch.tensor([10.0, 20.0, 30.0])
    final, negated, doubled = loop(torch.ones(()), 2, 3, 4, u, 100)
    z, expected = 1.0, []
    for a, b in zip((2, 3, 4), u.tolist(), strict=True):
        z = z * a + b + 100
        expected.append(2 * z)
    assert negated == [-2, -3, -4]
    assert (final.item(), doubled.tolist()) == (z, expected)


def test_a_changed_loop_keeps_what_is_not_named() -> None:
    loop = RolledLoop("loop_0", fx.symbolic_trace(lambda z: (z,)), 5, 1, 2, 3, 0)
    other = loop.changed(name="loop_1", trip_count=6)
    assert (other.name, other.trip_count, other.body) == ("loop_1", 6, loop.body)
    assert (other.carry_count, other.per_step_count, other.stacked_count) == (1, 2, 3)
