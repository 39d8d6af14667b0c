"""What the answer depends on at a site, through steps that a captured evaluation detaches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laser_fx.passes.collect_gradients import collect_gradients
from laser_fx.passes.find_sites import find_sites
from tests.small import WIDTH, Contractive, exact, model


def collected(module: torch.nn.Module, x: Tensor, reading: Tensor) -> dict[str, Tensor]:
    program = exact(module, x).program
    graph, found = collect_gradients(program.rolled, find_sites(program.rolled, program.capture.states))
    with torch.enable_grad():
        (answer,) = graph(*[value.detach() for value in program.arguments(graph, (x,))])
        (answer * reading).sum().backward()
    return {key: sensitivity.total for key, sensitivity in found.items()}


def test_gradients_of_all_steps_are_summed() -> None:
    module, x = Contractive(), torch.randn(5, 32)
    reading = torch.randn(5, 32)
    found = collected(module, x, reading)
    outputs: list[Tensor] = []
    handle = module.up.register_forward_hook(lambda _, __, y: outputs.append(y))
    grads = torch.autograd.grad((module(x) * reading).sum(), outputs)
    handle.remove()
    expected = sum(g.double().mT @ g.double() for g in grads)
    torch.testing.assert_close(found["loop_0:up"], expected, rtol=1e-4, atol=1e-6)


def test_steps_that_are_detached_count_too() -> None:
    def detached(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = torch.tanh(self.a(z.detach()) + x)
        return z

    def attached(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = torch.tanh(self.a(z) + x)
        return z

    x, reading = torch.randn(4, WIDTH), torch.randn(4, WIDTH)
    torch.manual_seed(0)
    first = model(detached)
    torch.manual_seed(0)
    second = model(attached)
    found, expected = collected(first, x, reading), collected(second, x, reading)
    torch.testing.assert_close(found["loop_0:a"], expected["loop_0:a"])
    assert float(found["loop_0:a"].trace()) > 0
