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
