from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.call import Call, flatten_call
from laser_fx.capture import capture, check_finite
from laser_fx.captured import Captured
from laser_fx.errors import CaptureError, InputError, NonFiniteError
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.options import Options
from tests.small import WIDTH, captured, exact, looped, model, same, small_trm, step, trm_batch


@dataclass
class State:
    z: Tensor
    history: list[Tensor]
    label: str = "start"


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, state: State, scale: float = 1.0, *, batch: dict[str, Tensor]) -> dict[str, Any]:
        z = state.z
        for _ in range(3):
            z = torch.tanh(self.layer(z) * scale + batch["x"])
        return {"state": State(z, [*state.history, z], "end"), "scale": scale, "nothing": None}


def structured_call(rows: int = 3) -> tuple[State, dict[str, Tensor]]:
    return State(torch.randn(rows, WIDTH), [torch.randn(rows, 2)]), {"x": torch.randn(rows, WIDTH)}


def call(*inputs: Any) -> Call:
    return flatten_call(inputs, {})


def test_leaves_have_readable_names() -> None:
    state, batch = structured_call()
    made = flatten_call((state, 2.0), {"batch": batch}, ("state", "scale"))
    assert made.names == ("state.z", "state.history.0", "batch.x")
    assert [value for _, value in made.constants] == ["start", 2.0]
    trm, tokens = small_trm(), trm_batch(2)
    names = flatten_call((trm.initial_carry(tokens), tokens), {}, ("carry", "batch")).names
    assert {"carry.inner_carry.z_H", "carry.steps", "batch.inputs"} <= set(names)


def test_a_call_is_put_together_again() -> None:
    state, batch = structured_call()
    made = flatten_call((state, 2.0), {"batch": batch})
    (again, scale), kwargs = made.rebuild(made.tensors)
    assert (scale, again.label) == (2.0, "start")
    assert again.z is state.z
    assert kwargs["batch"]["x"] is batch["x"]


def test_dataclasses_dicts_and_constants_go_in_and_come_out() -> None:
    module = Structured().eval()
    state, batch = structured_call()
    compiled = laser_fx.compile(module, options=Options.exact())
    with torch.no_grad():
        for rows in (3, 1, 5):
            state, batch = structured_call(rows)
            made, expected = compiled(state, batch=batch), module(state, batch=batch)
            assert same(made, expected)
            assert isinstance(made["state"], State)
            assert (made["state"].label, made["scale"], made["nothing"]) == ("end", 1.0, None)
        # Another constant is another graph.
        assert same(compiled(state, 0.5, batch=batch), module(state, 0.5, batch=batch))


def test_placeholders_are_weights_then_inputs() -> None:
    graph = captured(looped(), torch.randn(3, WIDTH))
    holders = [n.name for n in graph.graph_module.graph.nodes if n.op == "placeholder"]
    assert holders[-1] == "in_arg0"
    assert graph.inputs == ("in_arg0",)
    assert [graph.states[name] for name in holders[:-1]] == list(looped().state_dict())


def test_the_batch_is_free_and_no_other_size_is() -> None:
    graph = captured(looped(), torch.randn(3, WIDTH))
    assert graph.dynamic
    for rows, accepted in ((3, True), (2, True), (100, True), (1, False)):
        assert graph.accepts(call(torch.randn(rows, WIDTH))) is accepted
    assert not graph.accepts(call(torch.randn(3, WIDTH).double()))
    assert not graph.accepts(call(torch.randn(3, WIDTH, 1)))
    assert not graph.accepts(call(torch.randn(3, WIDTH), 2))


def test_inputs_that_share_a_size_must_go_on_sharing_it() -> None:
    graph = captured(model(lambda self, x, y: self.a(x) + y), torch.randn(3, WIDTH), torch.randn(3, WIDTH))
    assert graph.accepts(call(torch.randn(5, WIDTH), torch.randn(5, WIDTH)))
    assert not graph.accepts(call(torch.randn(5, WIDTH), torch.randn(4, WIDTH)))


def test_a_batch_of_one_is_doubled_for_capture() -> None:
    graph = captured(looped(), torch.randn(1, WIDTH))
    assert graph.call.tensors[0].shape == (2, WIDTH)
    assert graph.dynamic


def test_a_fixed_batch_is_that_batch_alone() -> None:
    graph = capture(looped(), call(torch.randn(3, WIDTH)), grad_enabled=False, dynamic=False)
    assert not graph.dynamic
    assert graph.accepts(call(torch.randn(3, WIDTH)))
    assert not graph.accepts(call(torch.randn(4, WIDTH)))


def test_a_batch_that_the_code_needs_as_it_is_leaves_other_inputs_free() -> None:
    def burnt_in(self: nn.Module, x: Tensor) -> Tensor:
        return self.a(x.view(3, WIDTH))

    def table(self: nn.Module, x: Tensor, table: Tensor) -> Tensor:
        return self.a(x) + (table + torch.ones(3, WIDTH)).sum()

    graph = captured(model(burnt_in), torch.randn(3, WIDTH))
    assert not graph.dynamic
    assert not graph.guards
    assert not graph.accepts(call(torch.randn(4, WIDTH)))
    graph = captured(model(table), torch.randn(3, WIDTH), torch.randn(3, WIDTH))
    assert graph.accepts(call(torch.randn(4, WIDTH), torch.randn(3, WIDTH)))
    assert not graph.accepts(call(torch.randn(4, WIDTH), torch.randn(4, WIDTH)))


def modes(graph: Captured) -> list[bool]:
    return [n.meta[GRAD_ENABLED] for n in graph.graph_module.graph.nodes if n.op == "call_function"]


def test_every_node_says_its_grad_mode() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.b(x)
            with torch.enable_grad():
                z = torch.tanh(z)
            z = torch.sin(z)
        return self.b(z)

    module = model(forward)
    assert modes(captured(module.train(), torch.randn(3, WIDTH))) == [False, True, False, True]
    assert not any(
        "wrap_with_set_grad" in str(n.target) for n in captured(module, torch.randn(3, WIDTH)).graph_module.graph.nodes
    )


def test_capture_leaves_the_callers_grad_mode_and_inputs_alone() -> None:
    x = torch.randn(3, WIDTH, requires_grad=True)
    with torch.no_grad():
        capture(looped().train(), call(x), grad_enabled=True)
        assert not torch.is_grad_enabled()
    assert x.grad_fn is None
    assert x.requires_grad


def test_tensors_of_inference_mode_are_taken() -> None:
    module = looped()
    with torch.inference_mode():
        x = torch.randn(3, WIDTH)
        compiled = exact(module, x)
        assert same(compiled(x), module(x))


class Counting(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return x * self.calls


def test_a_buffer_that_the_model_writes_is_written() -> None:
    module, x = Counting().eval(), torch.randn(3, WIDTH)
    compiled = exact(module, x)
    assert module.calls.item() == 1
    with torch.no_grad():
        second = compiled(x)
    assert module.calls.item() == 2
    module.calls.fill_(1)
    with torch.no_grad():
        assert same(second, module(x))


def test_a_model_that_leaves_the_graph_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.a(x) * float(x.sum())

    with pytest.raises(CaptureError, match=r"torch\.export cannot trace"):
        captured(model(forward), torch.randn(3, WIDTH))


def test_a_call_without_tensors_is_refused() -> None:
    with pytest.raises(InputError, match="no tensor input"):
        captured(looped(), 3)


@pytest.mark.parametrize(("value", "infinities"), [(float("nan"), False), (float("inf"), True)])
def test_values_that_cannot_be_meant_are_named(value: float, infinities: bool) -> None:
    x = torch.full((2, WIDTH), value)
    with pytest.raises(NonFiniteError, match="16 of 16") as raised:
        check_finite(looped(), flatten_call((x,), {}, ("x",)), infinities=infinities)
    assert raised.value.where == "input x"


def test_an_infinite_mask_is_allowed() -> None:
    module = looped()
    module.register_buffer("mask", torch.full((3, 3), float("-inf")))
    check_finite(module, call(torch.full((3, 3), float("-inf")), torch.ones(3, dtype=torch.int64)))


def test_a_model_that_writes_into_its_input_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        x.add_(1.0)
        return step(self, x, x)

    with torch.no_grad(), pytest.raises(CaptureError, match="writes into what it is called with"):
        captured(model(forward), torch.randn(4, WIDTH))


def test_a_size_that_is_returned_is_not_burnt_in() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, int]:
        z = x
        for _ in range(3):
            z = step(self, z, x)
        return z, x.shape[0]

    module = model(forward)
    with torch.no_grad():
        compiled = exact(module, torch.randn(4, WIDTH))
        for rows in (4, 6, 1):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), module(x))


def test_a_transform_inside_the_model_is_refused() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: torch.tanh(self.a(row)))(x)

    with torch.no_grad(), pytest.raises(CaptureError, match=r"torch\.vmap"):
        captured(model(forward), torch.randn(4, WIDTH))
