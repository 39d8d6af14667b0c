from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import CaptureError, NoLoopWarning
from laser_fx.loops import NearMiss
from laser_fx.options import Options
from laser_fx.passes import near_miss
from laser_fx.passes.detect import detect
from laser_fx.passes.near_miss import find_near_misses
from tests.families.near_loops import NEAR_LOOPS
from tests.nests import CASES
from tests.small import WIDTH, Parts, model, small_trm, step, trm_batch, viewed

STEPS, CHANGED = 6, 3


def misses(module: nn.Module, *inputs: Any, min_trip: int = 2) -> tuple[NearMiss, ...]:
    graph, view = viewed(module, *inputs)
    return find_near_misses(view, detect(view, min_trip), graph.states, min_trip)


def misses_of(forward: Callable[..., Any], *, training: bool = False) -> tuple[NearMiss, ...]:
    return misses(model(forward).train(training), torch.randn(3, WIDTH))


def best(forward: Callable[..., Any], *, training: bool = False) -> NearMiss:
    return misses_of(forward, training=training)[0]


@pytest.mark.parametrize("name", [name for name, near in NEAR_LOOPS.items() if near.captured])
def test_the_reason_names_what_differs(name: str) -> None:
    near = NEAR_LOOPS[name]
    first, *_ = misses(near.model(), *near.inputs(3))
    assert near.keyword in first.reason.lower()


@pytest.mark.parametrize("name", [name for name, near in NEAR_LOOPS.items() if not near.captured])
def test_a_branch_on_data_is_refused_at_its_line(name: str) -> None:
    near = NEAR_LOOPS[name]
    with pytest.raises(CaptureError, match=r"near_loops\.py:\d+: if .*\n.*branch"):
        laser_fx.inspect(near.model(), near.inputs(3))


EXPLAINED = {
    "one_loop",
    "two_steps",
    "prediction_of_every_step",
    "some_steps_are_used",
    "zeros_at_first",
    "three_deep",
    "output_of_every_inner_step",
    "states_swap",
    "dropout",
    "parts_of_a_result",
    "other_outputs",
}


@pytest.mark.parametrize("name", sorted(EXPLAINED))
def test_what_loops_explain_is_no_near_miss(name: str) -> None:
    assert misses_of(CASES[name].forward) == ()


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recursive_model_has_no_near_miss(layers: int) -> None:
    module, batch = small_trm(L_layers=layers), trm_batch(4)
    assert misses(module, module.initial_carry(batch), batch) == ()


def test_every_field_of_a_broken_step() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for t in range(STEPS):
            z = torch.tanh(self.a(z) * (0.25 if t == CHANGED else 0.5) + x)
        return z

    miss = best(forward)
    assert (miss.steps, miss.operators, miss.step, miss.node, miss.argument) == (CHANGED, 4, CHANGED, "mul_3", "other")
    assert miss.reason == (
        "3 steps of 4 operators repeat, the 4th does not: mul_3 has the constant other = 0.25,"
        " where the steps before have 0.5"
    )


class OtherWeight(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = x
        for t in range(STEPS):
            z = torch.tanh((self.b if t == CHANGED else self.untied[0])(z) + x)  # read here
        return z


def test_both_weights_the_module_and_the_line_are_named() -> None:
    (miss,) = misses(OtherWeight().eval(), torch.randn(3, WIDTH))
    assert "linear_3 (b) reads the weight b.weight" in miss.reason
    assert "read the weight untied.0.weight" in miss.reason
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.endswith("# read here"))
    assert str(miss).endswith(f"— passes/test_near_miss.py:{line}")


def additional(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh(self.a(z) + x)
        z = torch.sin(torch.relu(z) if t == CHANGED else z)
    return z


def missing(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = self.a(z) + x
        z = torch.sin(z if t == CHANGED else torch.tanh(z))
    return z


def missing_at_first(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.sin(self.a(z) + x)
        z = z if t == 0 else torch.tanh(z)
    return z


def blocks_swapped(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        first, second = (self.b, self.a) if t == CHANGED else (self.a, self.b)
        z = second(torch.relu(first(z)))
    return z


def reads_another_operator(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        wide = self.a(z)
        narrow = torch.tanh(wide)
        z = torch.sin(narrow) * (wide if t == CHANGED else narrow)
    return z


def skips_a_step(self: Any, x: Tensor) -> Tensor:
    states = [x]
    for t in range(STEPS):
        states.append(torch.tanh(self.a(states[-1]) + (states[-2] if t == CHANGED else x)))
    return states[-1]


def value_for_a_constant(self: Any, x: Tensor) -> Tensor:
    z = x
    for t in range(STEPS):
        z = torch.tanh(self.a(z) * (x if t == CHANGED else 0.5))
    return z


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (additional, "the 4th does not: relu is an additional operator"),
        (missing, "stands where an operator is missing, where the steps before have tanh"),
        (missing_at_first, "5 steps of 4 operators repeat, the one before them does not"),
        (blocks_swapped, "linear_6 (b) comes before linear_7 (a)"),
        (reads_another_operator, "reads the linear number 0 of its step as its argument other"),
        (value_for_a_constant, "mul_3 reads in_arg0, where the steps before have 0.5"),
        (skips_a_step, "of 2 steps before as its argument other"),
        (CASES["untied_layers"].forward, "every step reads weights of its own"),
        (CASES["a_number_that_grows"].forward, "no two of them are equal"),
        (CASES["nothing_carried"].forward, "the steps do not feed each other"),
        (CASES["a_state_that_grows"].forward, "a value of the shape"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_words(forward: Callable[..., Any], words: str) -> None:
    assert words in best(forward).reason


def test_a_boundary_of_no_grad_is_named_in_training_only() -> None:
    forward = CASES["gradient_through_the_last_step"].forward
    assert "runs with gradients, where the steps before run under no_grad" in best(forward, training=True).reason
    assert misses_of(forward) == ()


def test_a_step_that_differs_inside_a_loop_is_found() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = h = x
        for _ in range(4):
            for t in range(STEPS):
                z = step(self, z, h) * (0.25 if t == CHANGED else 0.5)
            h = torch.sin(self.b(h) + z)
        return h

    (miss,) = misses_of(forward)
    assert (miss.step, miss.argument) == (CHANGED, "other")


def test_too_few_steps_name_the_option() -> None:
    (miss,) = misses(model(CASES["one_loop"].forward), torch.randn(3, WIDTH), min_trip=5)
    assert "Options.min_trip" in miss.reason


def test_the_report_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    report = laser_fx.inspect(OtherWeight(), torch.randn(3, WIDTH))
    assert len(report.near_misses) == 1
    assert f"nearly a loop: {report.near_misses[0].reason}"[:100] in str(report)


def test_the_warning_ends_with_the_best_one() -> None:
    untied = model(CASES["untied_layers"].forward)
    with pytest.warns(NoLoopWarning, match=r"runs as it is\. 4 steps .* every step reads weights of its own"):
        laser_fx.compile(untied, (torch.randn(3, WIDTH),), options=Options.exact())


def test_without_any_repetition_the_warning_points_to_inspect() -> None:
    with pytest.warns(NoLoopWarning, match="inspect shows what was captured"):
        laser_fx.compile(nn.Linear(WIDTH, WIDTH).eval(), (torch.randn(3, WIDTH),))


def test_compiling_a_model_with_a_loop_looks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_miss, "find_near_misses", lambda *_: pytest.fail("it was looked for"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NoLoopWarning)
        laser_fx.compile(model(CASES["one_loop"].forward), (torch.randn(3, WIDTH),), options=Options.exact())
