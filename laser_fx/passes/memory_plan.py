"""Cuts a training graph into segments, and chooses what these keep for backward as the options ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laser_fx.errors import OptionError
from laser_fx.memory.approximate import Approximation, Found
from laser_fx.memory.fit import Part, fit_budget, fit_time, parts_of, totals
from laser_fx.memory.policy import Policy, Priced
from laser_fx.memory.rehearse import ungraded_time
from laser_fx.passes.calibrate import gradients
from laser_fx.passes.cut_segments import cut_segments, segments_of
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.program import Program

__all__ = ["plan_memory", "rehearse"]

LEAN_OVERHEAD = 0.03
"""What a lean step may take longer by the table of operators, so that it stays below 5 % as the clock has it."""


def plan_memory(program: Program) -> Program:
    """Cut the training graph under the plan that its options ask for.

    Raises:
        OptionError: the budget is below what a plan can reach.
    """
    planned = cut_segments(program.rolled, program.mode.autocast, fastest=program.options.products == "fastest")
    elsewhere = ungraded_time(lambda: rehearse(program, planned))
    parts = parts_of(segments_of(planned))
    if program.options.approximate and program.options.memory != "lean":
        found = _approximate(program, planned, parts)
    else:
        found = Found(tuple(_policies(program, parts, elsewhere)), 0.0, ({},) * len(parts))
    for part, policy, alone in zip(parts, found.policies, found.alone, strict=True):
        part.segment.policy, part.segment.errors = policy, alone
    nest = with_bodies(program.nest, planned)
    return replace(program, graph_module=planned, nest=nest, gradient_error=found.error)


def rehearse(program: Program, planned: fx.GraphModule) -> None:
    """Run a graph on tensors without data, as large as the example inputs: its segments see the forms of theirs."""
    with FakeTensorMode() as mode:
        tensors = [mode.from_tensor(t) for t in program.arguments(planned, program.example_inputs)]
        with torch.set_grad_enabled(program.mode.grad_enabled):
            planned(*tensors)


def _policies(program: Program, parts: Sequence[Part], elsewhere: int) -> Sequence[Policy]:
    memory = program.options.memory
    if memory == "lean":
        return fit_time(parts, LEAN_OVERHEAD, elsewhere)
    if memory == "min":
        return [Priced()] * len(parts)
    assert isinstance(memory, (int, float))
    found = fit_budget(parts, int(memory * sum(part.eager_bytes for part in parts)))
    if found is None:
        raise _too_small(memory, parts)
    return found


def _approximate(program: Program, planned: fx.GraphModule, parts: Sequence[Part]) -> Found:
    memory, bound = program.options.memory, program.options.max_gradient_error
    search = Approximation(parts, lambda: gradients(program, planned), bound)
    budget = None if memory == "min" else int(float(memory) * sum(part.eager_bytes for part in parts))  # type: ignore[arg-type]
    found = search.within(budget)
    if found is not None:
        return found
    least = search.within(None)
    fraction = totals(parts, least.policies if least else [Priced()] * len(parts)) / sum(p.eager_bytes for p in parts)
    raise OptionError(
        f"memory is {memory}, and with gradients within {bound:g} at least {fraction:.4f} of eager's bytes are kept",
        where="Options.memory",
        fix=f"choose at least {fraction + 1e-4:.4f}, or 'min', or a larger max_gradient_error",
    )


def _too_small(fraction: float, parts: Sequence[Part]) -> OptionError:
    least = totals(parts, [Priced()] * len(parts)) / sum(part.eager_bytes for part in parts)
    return OptionError(
        f"memory is {fraction:g}, and exact plans keep at least {least:.4f} of what eager keeps",
        where="Options.memory",
        fix=f"choose at least {least + 1e-4:.4f}, or 'min'",
    )
