"""Repetitions that are no loop are not made one: nothing found spans the step that differs."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch

from laser_fx.compiler import CompiledModel
from laser_fx.errors import CaptureError, NoLoopWarning
from tests.families.near_loops import NEAR_LOOPS, STEPS
from tests.small import backward, exact, same

CAPTURED = [name for name, near in NEAR_LOOPS.items() if near.captured]


@functools.cache
def compiled(name: str, training: bool) -> CompiledModel:
    near = NEAR_LOOPS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoLoopWarning)
        return exact(near.model().train(training), *near.inputs(3))


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.parametrize("training", [False, True])
def test_no_loop_spans_the_step_that_differs(name: str, training: bool) -> None:
    found = compiled(name, training).loops.trips()
    assert found == NEAR_LOOPS[name].trips
    assert all(trips < STEPS for _, trips in found)


@pytest.mark.parametrize("name", CAPTURED)
@torch.no_grad()
def test_forward_equals_eager_bitwise(name: str) -> None:
    model = compiled(name, False)
    for rows in (3, 5):
        inputs = NEAR_LOOPS[name].inputs(rows)
        assert same(model(*inputs), model._model(*inputs))


@pytest.mark.parametrize("name", CAPTURED)
def test_gradients_equal_eager_bitwise(name: str) -> None:
    model = compiled(name, True)
    inputs = NEAR_LOOPS[name].inputs(4)
    assert same(backward(model, model, *inputs), backward(model._model, model._model, *inputs))


@pytest.mark.parametrize("name", [name for name in NEAR_LOOPS if name not in CAPTURED])
def test_what_cannot_be_captured_is_refused_with_its_line(name: str) -> None:
    near = NEAR_LOOPS[name]
    with pytest.raises(CaptureError, match=near.keyword) as caught:
        exact(near.model(), *near.inputs(3))
    assert "if z.norm()" in str(caught.value)
