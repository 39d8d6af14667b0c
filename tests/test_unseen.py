"""What a trace would drop in silence is refused, and the model stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import CaptureError
from laser_fx.options import Options
from laser_fx.unseen import refuse_unseen_gradients
from tests.small import WIDTH, backward, exact, model, same, step


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def own_backward(self: Any, x: Tensor) -> Tensor:
    return StraightThrough.apply(step(self, x, x))


def hook_on_a_tensor(self: Any, x: Tensor) -> Tensor:
    z = step(self, x, x)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * 0.5)
    return z


def inference_mode_inside(self: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        z = self.b(x)
    return step(self, x, x) + z.sum()


def hooks_on_what_is_saved(self: Any, x: Tensor) -> Tensor:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 2, lambda t: t):
        return step(self, x, x)


UNSEEN = (own_backward, hook_on_a_tensor, inference_mode_inside, hooks_on_what_is_saved)


@pytest.mark.parametrize("forward", UNSEEN, ids=lambda f: f.__name__)
def test_what_changes_gradients_without_an_operator_is_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(CaptureError, match="changes gradients, and no trace sees it"):
        laser_fx.compile(model(forward).train())(torch.randn(3, WIDTH))


@pytest.mark.filterwarnings("ignore::laser_fx.errors.NoLoopWarning")
@pytest.mark.parametrize("forward", [own_backward, hook_on_a_tensor], ids=lambda f: f.__name__)
def test_without_gradients_it_does_not_matter(forward: Callable[..., Any]) -> None:
    module, x = model(forward), torch.randn(3, WIDTH)
    with torch.no_grad():
        assert same(exact(module, x)(x), module(x))


def test_checkpointing_is_no_such_thing() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = torch.utils.checkpoint.checkpoint(step, self, z, x, use_reentrant=False)
        return z

    module, x = model(forward).train(), torch.randn(3, WIDTH)
    assert same(backward(exact(module, x), module, x), backward(module, module, x))


def test_torch_is_as_it_was_afterwards() -> None:
    before = torch.autograd.Function.__dict__["apply"], Tensor.register_hook
    with pytest.raises(ValueError, match="inside"), refuse_unseen_gradients():
        raise ValueError("inside")
    assert (torch.autograd.Function.__dict__["apply"], Tensor.register_hook) == before


class Assigning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.calls = 0
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("table", None)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def counts(self: Any, x: Tensor) -> Tensor:
    self.calls = self.calls + 1
    return self.layer(x) * self.calls


def assigns_a_buffer(self: Any, x: Tensor) -> Tensor:
    self.count = self.count + 1
    return self.layer(x) + self.count


def fills_a_cache(self: Any, x: Tensor) -> Tensor:
    if self.table is None:
        self.table = torch.arange(WIDTH, dtype=torch.float32)
    z = x
    for _ in range(3):
        z = torch.tanh(self.layer(z) + self.table)
    return z


def assigning(forward: Callable[..., Any]) -> nn.Module:
    return type(forward.__name__, (Assigning,), {"forward": forward})().eval()


@pytest.mark.parametrize("forward", [counts, assigns_a_buffer, fills_a_cache], ids=lambda f: f.__name__)
def test_an_attribute_that_forward_assigns_is_refused_and_put_back(forward: Callable[..., Any]) -> None:
    module = assigning(forward)
    with torch.no_grad(), pytest.raises(CaptureError, match=r"assigns (calls|count|table) in its forward"):
        laser_fx.compile(module, options=Options.exact())(torch.randn(3, WIDTH))
    assert module.calls == 0
    assert module.table is None
    assert type(module.count) is Tensor


def test_a_cache_that_is_filled_already_is_a_buffer_like_any_other() -> None:
    module, x = assigning(fills_a_cache), torch.randn(3, WIDTH)
    with torch.no_grad():
        expected = module(x)
        assert same(exact(module, x)(x), expected)
    assert type(module.table) is Tensor


def test_a_refused_model_is_not_run_for_real() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        self.count.add_(1)
        return self.layer(x) * (1 if x.sum() > 0 else 2)

    module = assigning(forward)
    state = torch.get_rng_state()
    with torch.no_grad(), pytest.raises(CaptureError):
        laser_fx.compile(module)(torch.randn(3, WIDTH, generator=torch.Generator()))
    assert module.count == 0
    assert torch.equal(torch.get_rng_state(), state)


class Layouts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z = x.contiguous().view(-1, WIDTH)
        for _ in range(3):
            z = torch.tanh(self.layer(z))
        return z if x.is_contiguous() else z * 2


def test_an_input_that_lies_otherwise_in_memory_is_another_program() -> None:
    module, x = Layouts().eval(), torch.randn(WIDTH, WIDTH)
    with torch.no_grad():
        compiled = exact(module, x)
        assert same(compiled(x.mT), module(x.mT))
        assert same(compiled(x), module(x))


def test_a_first_call_of_one_row_does_not_run_the_program_of_two() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x * (3.0 if x.shape[0] == 1 else 1.0)
        for _ in range(3):
            z = step(self, z, x)
        return z

    module = model(forward)
    compiled = laser_fx.compile(module, options=Options.exact())
    with torch.no_grad():
        for rows in (1, 4, 1):
            x = torch.randn(rows, WIDTH)
            assert same(compiled(x), module(x))


def test_a_model_for_one_row_alone_is_compiled_for_one_row() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x.expand(5, WIDTH)
        for _ in range(3):
            z = step(self, z, x)
        return z

    module, x = model(forward), torch.randn(1, WIDTH)
    with torch.no_grad():
        assert same(exact(module, x)(x), module(x))


def test_equal_tensors_that_the_model_holds_may_part_later() -> None:
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.even, self.odd = nn.Linear(WIDTH, WIDTH), torch.ones(WIDTH), torch.ones(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            z = x
            for t in range(4):
                z = torch.tanh(self.layer(z) + x) * (self.odd if t % 2 else self.even)
            return z

    module, x = Held().eval(), torch.randn(3, WIDTH)
    with torch.no_grad():
        compiled = exact(module, x)
        module.odd.data.mul_(2)
        assert same(compiled(x), module(x))
