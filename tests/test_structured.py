"""`laser_fx.loop`: what it computes, what it refuses, and what becomes of it when it is compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import laser_fx
from laser_fx.compiler import CompiledModel
from laser_fx.errors import CaptureError, InputError
from laser_fx.options import Options
from laser_fx.passes.infra import count_nodes
from laser_fx.rolled import RolledLoop
from tests.small import WIDTH, StructuredContractive, backward, captured, exact, low_rank, model, same, step

Trips = tuple[tuple[int, int], ...]
CASES: dict[str, tuple[Callable[..., Any], Trips]] = {}


def case(*trips: tuple[int, int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        CASES[forward.__name__] = (forward, trips)
        return forward

    return register


@case((0, 4))
def one_carry(self: Any, x: Tensor) -> Tensor:
    return laser_fx.loop(lambda i, z: step(self, z, x), x, 4)


@case((0, 1))
def a_single_step(self: Any, x: Tensor) -> Tensor:
    return laser_fx.loop(lambda i, z: step(self, z, x), x, 1)


@case((0, 5))
def a_tree_of_carries(self: Any, x: Tensor) -> Any:
    def body(i: Tensor, carry: Any) -> Any:
        z, (h, count) = carry["z"], carry["more"]
        return {"z": step(self, z, h), "more": (torch.tanh(self.b(h) + z), count + 1)}

    return laser_fx.loop(body, {"z": x, "more": (x * 2, torch.zeros((), dtype=torch.int64))}, 5)


@dataclass
class Latents:
    high: Tensor
    low: Tensor


@case((0, 3))
def a_dataclass(self: Any, x: Tensor) -> Tensor:
    final = laser_fx.loop(lambda i, s: Latents(s.high + s.low, step(self, s.low, s.high)), Latents(x, x), 3)
    return final.high - final.low


@case((0, 6))
def per_step_values(self: Any, x: Tensor) -> Tensor:
    inputs = x.sum() * torch.arange(6.0).reshape(6, 1)
    return laser_fx.loop(lambda i, z, row, u: step(self, z, row + u), x, 6, per_step=(self.rows, inputs))


@case((0, 4))
def collected_outputs(self: Any, x: Tensor) -> Any:
    def body(i: Tensor, z: Tensor) -> Any:
        z = step(self, z, x)
        return z, {"logits": self.b(z), "norm": z.square().sum()}

    return laser_fx.loop(body, x, 4, collect=True)


@case((0, 5))
def the_number_of_the_step(self: Any, x: Tensor) -> Any:
    def body(i: Tensor, z: Tensor) -> Any:
        return step(self, z, self.rows[i] + i) + self.rows[5 - i], 2 * i

    return laser_fx.loop(body, x, 5, collect=True)


@case((0, 3), (1, 4))
def one_inside_another(self: Any, x: Tensor) -> Tensor:
    def outer(i: Tensor, carry: Any) -> Any:
        h, z = carry
        z = laser_fx.loop(lambda j, z, row: step(self, z, h + row), z, 4, per_step=(self.rows[:4],))
        return torch.tanh(self.b(h) + z + i), z

    return laser_fx.loop(outer, (x, x), 3)[0]


@case((0, 4), (1, 3))
def inside_a_python_loop(self: Any, x: Tensor) -> Tensor:
    h, z = x, x
    for _ in range(4):
        z = laser_fx.loop(lambda i, z, h: step(self, z, h), z, 3, per_step=(torch.stack([h, x, h]),))
        h = torch.tanh(self.b(h) + z)
    return h


@case((0, 3), (1, 4))
def around_a_python_loop(self: Any, x: Tensor) -> Tensor:
    def body(i: Tensor, carry: Any) -> Any:
        h, z = carry
        for _ in range(4):
            z = step(self, z, h)
        return torch.tanh(self.b(h) + z), z

    return laser_fx.loop(body, (x, x), 3)[0]


@case((0, 3), (0, 5))
def one_after_another(self: Any, x: Tensor) -> Tensor:
    z = laser_fx.loop(lambda i, z: step(self, z, x), x, 3)
    return laser_fx.loop(lambda i, z: step(self, z, x), torch.sin(z), 5)


@case((0, 4))
def sizes_from_outside(self: Any, x: Tensor) -> Tensor:
    rows = x.shape[0]
    doubled = torch.cat([x, x])

    def body(i: Tensor, z: Tensor) -> Tensor:
        return step(self, z, doubled[rows:].reshape(rows, 2, 4).transpose(1, 2).reshape(-1, WIDTH))

    return laser_fx.loop(body, x, 4)


@case((0, 4))
def gradients_off_inside(self: Any, x: Tensor) -> Tensor:
    def body(i: Tensor, z: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.b(z)
        return step(self, z, seen)

    return laser_fx.loop(body, x, 4)


@case((0, 4), (0, 2))
def gradients_off_around(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        z = laser_fx.loop(lambda i, z: step(self, z, x), x, 4)
    return laser_fx.loop(lambda i, z: step(self, z, x), z, 2)


@case((0, 3))
def from_invariants_alone(self: Any, x: Tensor) -> Tensor:
    w = self.a.weight.t()
    return laser_fx.loop(lambda i, z: torch.tanh(z @ w) + self.b(x) * self.start.square(), x, 3)


@case((0, 3))
def a_carry_that_stays(self: Any, x: Tensor) -> Any:
    return laser_fx.loop(lambda i, c: (step(self, c[0], c[1]), c[1]), (x, x + 1), 3)


@case((0, 3))
def a_weight_at_first(self: Any, x: Tensor) -> Any:
    return laser_fx.loop(lambda i, z: torch.tanh(self.a(z)), self.start, 3) + x


@case((0, 4))
def nothing_but_outputs(self: Any, x: Tensor) -> Any:
    return laser_fx.loop(lambda i, c, row: ((), step(self, row + x, x)), (), 4, per_step=(self.rows[:4],), collect=True)


@case((0, 3), (0, 4))
def a_loop_of_weights_alone(self: Any, x: Tensor) -> Tensor:
    z = x
    for _ in range(4):
        z = step(self, z, x) + laser_fx.loop(lambda i, w: torch.tanh(self.b(w)), self.start, 3)
    return z


@case((0, 4))
def dropout(self: Any, x: Tensor) -> Tensor:
    return laser_fx.loop(lambda i, z: self.dropout(step(self, z, x)) + torch.rand_like(x), x, 4)


@case((0, 2))
def drawn_and_dropped(self: Any, x: Tensor) -> Tensor:
    laser_fx.loop(lambda i, z: torch.rand_like(z), x, 2)
    return self.a(x) + torch.rand_like(x)


def by_hand(body: Any, carry: Any, trips: int, *, per_step: Any = (), collect: bool = False) -> Any:
    """The loop that the documentation promises."""
    outputs = []
    for i in range(trips):
        result = body(torch.tensor(i), carry, *(values[i] for values in per_step))
        carry, output = result if collect else (result, None)
        outputs.append(output)
    return (carry, torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *outputs)) if collect else carry


def seeded(run: Callable[..., Any], *arguments: Any) -> Any:
    torch.manual_seed(3)
    return run(*arguments)


@pytest.mark.parametrize("name", CASES)
def test_eager_is_the_python_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = model(CASES[name][0]).train(), torch.randn(3, WIDTH)
    mine, grads = seeded(backward, module, module, x)
    monkeypatch.setattr(laser_fx, "loop", by_hand)
    expected, expected_grads = seeded(backward, module, module, x)
    assert same(mine, expected)
    for actual, wanted in zip(grads, expected_grads, strict=True):  # a row's gradient is summed in another order
        assert (actual is None) == (wanted is None)
        if actual is not None and wanted is not None:
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_compiled_is_eager_bitwise(name: str) -> None:
    forward, trips = CASES[name]
    module = model(forward)
    compiled = exact(module, torch.randn(3, WIDTH))
    assert compiled.loops.trips() == trips
    with torch.no_grad():
        for rows in (3, 5, 1):
            x = torch.randn(rows, WIDTH)
            assert same(seeded(compiled, x), seeded(module, x))


@pytest.mark.parametrize("name", CASES)
def test_training_has_eagers_outputs_gradients_and_draws(name: str) -> None:
    module, x = model(CASES[name][0]).train(), torch.randn(3, WIDTH)
    compiled = exact(module, x)
    assert {trips for _, trips in compiled.loops.trips()} == {trips for _, trips in CASES[name][1]}
    assert same(seeded(backward, compiled, module, x), seeded(backward, module, module, x))
    assert same(seeded(drawn_after, compiled, x), seeded(drawn_after, module, x))


def drawn_after(run: Callable[..., Any], x: Tensor) -> Tensor:
    run(x)
    return torch.rand(3)


def levels(graph_module: fx.GraphModule) -> list[fx.GraphModule]:
    return [m for m in graph_module.modules() if isinstance(m, fx.GraphModule)]


def long_loop(trips: int, **changes: Any) -> CompiledModel:
    def forward(self: Any, x: Tensor) -> Any:
        rows = torch.zeros(trips, WIDTH)
        return laser_fx.loop(
            lambda i, z, row: (step(self, z, x + row), z.mean(-1)), x, trips, per_step=(rows,), collect=True
        )

    return laser_fx.compile(model(forward), (torch.randn(3, WIDTH),), options=Options.exact(**changes))


def test_a_graph_is_as_long_as_one_step_however_often_it_runs() -> None:
    few, many = long_loop(10).program, long_loop(10_000).program
    for graph in ("captured", "rolled"):
        assert count_nodes(getattr(many, graph)) == count_nodes(getattr(few, graph)) <= 30
    assert many.nest.trips() == ((0, 10_000),)
    (call,) = many.rolled.graph.find_nodes(op="call_module")
    assert len(call.args) + len(call.meta["val"]) < 10


def test_ten_thousand_steps_run_as_eager_does() -> None:
    compiled, x = long_loop(10_000), torch.randn(3, WIDTH)
    with torch.no_grad():
        assert same(compiled(x), compiled._model(x))


def test_a_capture_calls_the_body_as_often_as_the_model_and_a_run_never() -> None:
    models, bodies = [], []

    def forward(self: Any, x: Tensor) -> Tensor:
        def body(i: Tensor, z: Tensor) -> Tensor:
            bodies.append(i)
            return step(self, z, x)

        models.append(x)
        return laser_fx.loop(body, x, 50)

    compiled = laser_fx.compile(model(forward), (torch.randn(3, WIDTH),), options=Options.exact())
    with torch.no_grad():
        compiled(torch.randn(3, WIDTH))
    assert len(models) == len(bodies) > 0
    assert bodies[0].dtype is torch.int64
    assert bodies[0].ndim == 0


def test_no_marker_is_left() -> None:
    for forward, _ in CASES.values():
        graphs = levels(captured(model(forward), torch.randn(3, WIDTH)).graph_module)
        assert not any("laser" in str(node.target) for graph in graphs for node in graph.graph.nodes)


def test_an_export_by_somebody_else_unrolls() -> None:
    program = torch.export.export(model(one_carry), (torch.randn(3, WIDTH),), strict=False)
    assert str(program.graph).count("aten.tanh.default") == 4


def test_a_loop_says_what_it_is_and_where() -> None:
    loop, _ = exact(model(one_inside_another), torch.randn(3, WIDTH)).loops.walk()
    assert len(loop.carry) == 2
    assert len(loop.per_step) == 1
    assert set(loop.parameters) == {"rows", "a.weight", "a.bias", "b.weight"}
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    name, line = re.fullmatch(r"tests/(test_structured\.py):(\d+)", str(loop.source)).groups()  # type: ignore[union-attr]
    assert name == Path(__file__).name
    assert "laser_fx.loop(outer, (x, x), 3)" in source[int(line) - 1]


def test_equal_calls_in_a_python_loop_are_one_loop() -> None:
    program = exact(model(inside_a_python_loop), torch.randn(3, WIDTH)).program
    assert len(program.captured.graph.find_nodes(op="call_module")) == 4
    assert isinstance(program.rolled.loop_0.body.loop_0_0, RolledLoop)
    assert program.nest.loops[0].children[0].trip_count == 3


def test_what_the_body_does_not_read_is_not_passed() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return laser_fx.loop(lambda i, z, row: step(self, z, x), x, 6, per_step=(self.rows,))

    (loop,) = exact(model(forward), torch.randn(3, WIDTH)).loops.loops
    assert loop.per_step == ()


def test_sites_inside_are_tracked() -> None:
    torch.manual_seed(0)
    module, x = StructuredContractive().eval(), low_rank(2, 24, 32)
    compiled = laser_fx.compile(module, (x,), options=Options(fidelity=0.99, sites="all"))
    with torch.no_grad():
        final, means = compiled(x)
        expected, _ = module(x)
    assert [site.steps for site in compiled.sites] == [6, 6]
    assert means.shape == (6, 2, 24)
    assert (final - expected).norm() < 0.1 * expected.norm()
    assert {len(steps) for steps in compiled.program.steps(compiled._records).values()} == {6}


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "no trips": (lambda x: laser_fx.loop(lambda i, z: z, x, 0), "trips is 0"),
    "trips of a tensor": (lambda x: laser_fx.loop(lambda i, z: z, x, torch.tensor(3)), "trips is a Tensor"),
    "a bool": (lambda x: laser_fx.loop(lambda i, z: z, x, True), "trips is True"),
    "a short row": (
        lambda x: laser_fx.loop(lambda i, z, r: z, x, 4, per_step=(x,)),
        r"per_step\[0\] is \(3, 8\) for 4",
    ),
    "a lone row": (lambda x: laser_fx.loop(lambda i, z, r: z, x, 3, per_step=x), "per_step is a Tensor"),
    "a number carried": (lambda x: laser_fx.loop(lambda i, c: c, {"z": x, "n": 1}, 3), "carry holds a int at n"),
    "another shape": (
        lambda x: laser_fx.loop(lambda i, z: torch.cat([z, z]), x, 3),
        r"carry 0 changes: float32\[3, 8\]",
    ),
    "another dtype": (lambda x: laser_fx.loop(lambda i, z: z.double(), x, 3), "carry 0 changes"),
    "another tree": (lambda x: laser_fx.loop(lambda i, z: (z, z), x, 3), "tree of the carry changes"),
    "no pair": (lambda x: laser_fx.loop(lambda i, z: z, x, 3, collect=True), "the body returns a Tensor"),
    "nothing": (lambda x: laser_fx.loop(lambda i, z: None, x, 3), "holds a NoneType"),
    "an output of no tensor": (
        lambda x: laser_fx.loop(lambda i, z: (z, 1), x, 3, collect=True),
        "output of the body holds",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_misuse_is_refused_in_eager_and_in_capture(name: str) -> None:
    run, why = WRONG[name]
    x = torch.randn(3, WIDTH)
    with pytest.raises(InputError, match=why) as raised:
        run(x)
    assert raised.value.where.startswith("tests/test_structured.py:")
    with pytest.raises(InputError, match=why.replace(r"\[3, 8\]", "").replace(r"\(3, 8\)", ".*")):
        captured(model(lambda self, x: run(x)), x)


def test_an_output_that_changes_its_shape_is_refused() -> None:
    with pytest.raises(InputError, match="output 0 changes"):
        laser_fx.loop(lambda i, z: (z, z[: int(i) + 1]), torch.randn(3, 2), 3, collect=True)


def test_a_value_that_leaves_the_body_another_way_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def body(i: Tensor, z: Tensor) -> Tensor:
            seen.append(z * 2)
            return step(self, z, x)

        return laser_fx.loop(body, x, 3) + seen[-1]

    with pytest.raises(CaptureError, match="made is read outside of it") as raised:
        captured(model(forward), torch.randn(3, WIDTH))
    assert "collect=True" in raised.value.fix


def test_a_number_read_out_of_the_step_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return laser_fx.loop(lambda i, z: step(self, z, x) * i.item(), x, 3)

    with pytest.raises(CaptureError, match="reads a number out of a tensor"):
        captured(model(forward), torch.randn(3, WIDTH))


@pytest.mark.parametrize("part", [lambda z: z, lambda z: z.reshape(-1)[2:]])
def test_a_write_into_what_the_body_is_handed_is_refused(part: Callable[[Tensor], Tensor]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        def body(i: Tensor, z: Tensor) -> Tensor:
            part(z).add_(1)
            return step(self, z, x)

        start = x * 2
        return laser_fx.loop(body, start, 3) + start

    with pytest.raises(CaptureError, match="writes into a value that it is handed"):
        captured(model(forward), torch.randn(3, WIDTH))


def test_a_write_into_what_is_outside_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        seen = x * 2

        def body(i: Tensor, z: Tensor) -> Tensor:
            seen.add_(z)
            return step(self, z, seen)

        return laser_fx.loop(body, x, 3) + seen

    with pytest.raises(CaptureError, match="made is read outside of it"):
        captured(model(forward), torch.randn(3, WIDTH))


def test_a_write_inside_the_body_is_refused_with_gradients() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return laser_fx.loop(lambda i, z: self.a(z).relu_(), x, 3)

    with pytest.raises(CaptureError, match="writes into its input"):
        exact(model(forward).train(), torch.randn(3, WIDTH))
    module, x = model(forward), torch.randn(3, WIDTH)
    with torch.no_grad():
        assert same(exact(module, x)(x), module(x))


@pytest.mark.parametrize("name", ["a_tree_of_carries", "collected_outputs"])
def test_dynamo_unrolls_it(name: str) -> None:
    module, x = model(CASES[name][0]), torch.randn(3, WIDTH)
    with torch.no_grad():
        assert same(torch.compile(module, backend="eager", fullgraph=True)(x), module(x))
