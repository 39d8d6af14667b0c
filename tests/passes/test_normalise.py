from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from laser_fx.passes.keys import identity_reason
from laser_fx.passes.normalise import View
from tests.small import WIDTH, captured, model, step, viewed


def reasons(module: nn.Module, grad_enabled: bool) -> dict[str, str | None]:
    graph = captured(module, torch.randn(3, WIDTH)).graph_module.graph
    return {str(n.target): identity_reason(n, grad_enabled) for n in graph.nodes if n.op == "call_function"}


def tokens(view: View) -> list[int]:
    return [item.token for item in view.block.items]


def test_a_detach_is_its_input_unless_gradients_are_on() -> None:
    module = model(lambda self, x: self.a(x).detach().clone())
    assert reasons(module, False)["aten.detach.default"] == "aten.detach.default without gradients is its input"
    assert reasons(module, True)["aten.detach.default"] is None
    assert reasons(module, False)["aten.clone.default"] is None


def test_a_cast_is_its_input_only_where_it_changes_nothing() -> None:
    same = reasons(model(lambda self, x: x.to(torch.float32) * 2), True)
    assert same["aten.to.dtype"] == "a cast of torch.float32 to torch.float32 is its input"
    assert reasons(model(lambda self, x: x.to(torch.float64) * 2), False)["aten.to.dtype"] is None
    assert reasons(model(lambda self, x: x.to(torch.float32, copy=True) * 2), False)["aten.to.dtype"] is None


def test_what_is_looked_through_is_listed_and_leaves_no_item() -> None:
    _, view = viewed(model(lambda self, x: self.a(x).detach() + 1), torch.randn(3, WIDTH))
    assert [node.name for node in view.looked_through] == ["detach"]
    assert [str(item.node) for item in view.block.items] == ["linear", "add"]


def test_equal_operations_have_one_token() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return step(self, step(self, x, x), x)

    _, view = viewed(model(forward), torch.randn(3, WIDTH))
    first, second = tokens(view)[:3], tokens(view)[3:]
    assert first == second
    assert len(set(first)) == 3


def test_another_weight_number_shape_or_keyword_is_another_token() -> None:
    def forward(self: Any, x: Tensor) -> tuple[Tensor, ...]:
        products = self.b(x), self.untied[0](x), self.untied[1](x)
        sums = x * 2, x * 3, torch.cat([x, x]) * 2
        gelus = nn.functional.gelu(x), nn.functional.gelu(x, approximate="tanh")
        return (*products, *sums, *gelus, x.softmax(0), x.softmax(1))

    _, view = viewed(model(forward), torch.randn(3, WIDTH))
    assert len(set(tokens(view))) == len(view.block.items)


def test_another_grad_mode_is_another_token() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.b(x)
        return self.b(z)

    module = model(forward)
    _, view = viewed(module, torch.randn(3, WIDTH))
    assert len(set(tokens(view))) == 1
    _, view = viewed(module.train(), torch.randn(3, WIDTH))
    assert len(set(tokens(view))) == 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second.weight, self.second.bias = self.first.weight, self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_tied_weights_are_one_weight() -> None:
    for training in (False, True):
        _, view = viewed(Tied().train(training), torch.randn(3, WIDTH))
        assert len(set(tokens(view))) == 1


def test_weights_in_one_storage_are_one_only_without_gradients() -> None:
    module = Tied()
    module.second.weight = nn.Parameter(module.first.weight.data)
    _, view = viewed(module.eval(), torch.randn(3, WIDTH))
    assert len(set(tokens(view))) == 1
    # Each of the two parameters has a gradient of its own.
    _, view = viewed(module.train(), torch.randn(3, WIDTH))
    assert len(set(tokens(view))) == 2


def test_what_is_computed_from_constants_is_a_constant() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        table = torch.outer(torch.arange(3.0), self.start).cos()
        return x + table + torch.outer(torch.arange(3.0), self.start).cos()

    _, view = viewed(model(forward), torch.randn(3, WIDTH))
    assert [str(item.node) for item in view.block.items] == ["add", "add_1"]
    first, second = (item.args[1] for item in view.block.items)
    assert first == second


def test_a_random_draw_is_no_constant() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return x + torch.rand(WIDTH) + torch.rand(WIDTH)

    _, view = viewed(model(forward), torch.randn(3, WIDTH))
    assert len(view.block.items) == 4


def test_what_is_made_of_weights_stays_in_place_where_it_has_a_gradient() -> None:
    module = model(lambda self, x: x @ self.a.weight.t())
    _, view = viewed(module, torch.randn(3, WIDTH))
    assert [str(item.node) for item in view.block.items] == ["matmul"]
    _, view = viewed(module.train(), torch.randn(3, WIDTH))
    assert [str(item.node) for item in view.block.items] == ["t", "matmul"]
    assert "t" in {node.name for node in view.weights}


def test_sizes_are_looked_through() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return self.b(x).reshape(2 * x.shape[0], -1)

    graph, view = viewed(model(forward), torch.randn(3, WIDTH))
    assert graph.dynamic
    assert [str(item.node) for item in view.block.items] == ["linear", "reshape"]
    assert all(why.startswith("it is a size") for why in view.looked_through.values())
