"""Cuts a training graph into segments, and chooses what these keep for backward as the options ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from laser_fx.dump import passed
from laser_fx.errors import OptionError
from laser_fx.marks import mark_loops
from laser_fx.memory.approximate import Approximation, Found, gradient_error
from laser_fx.memory.fit import Part, fit_budget, fit_time, parts_of, time_limit, totals
from laser_fx.memory.lowrank import Tracking, tracked_sites
from laser_fx.memory.policy import AsEager, Policy, Priced
from laser_fx.memory.rehearse import ungraded_time
from laser_fx.memory.settled import Settled
from laser_fx.options import Options
from laser_fx.passes.calibrate import gradients
from laser_fx.passes.codec_menu import menu_of
from laser_fx.passes.compile_bodies import compile_bodies
from laser_fx.passes.cut_segments import cut_segments, segments_of, tracked_in
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.program import Program
from laser_fx.progress import stage

__all__ = ["plan_memory", "rehearse"]

LEAN_OVERHEAD = 0.03
"""What a lean step may take longer by the table of operators, so that it stays below 5 % as the clock has it."""


@stage("planning memory")
def plan_memory(program: Program) -> Program:
    """Cut the training graph under the plan that its options ask for.

    Raises:
        OptionError: the budget is below what a plan can reach.
    """
    options = program.options
    # By the letter of the method nothing but what is kept differs from eager; inductor chooses kernels by itself.
    fastest = options.products == "fastest" and options.memory != "laser" and options.kernels == "eager"
    planned = cut_segments(program.rolled, program.mode.autocast, fastest=fastest)
    mark_loops(planned, "cut_segments")
    passed(program.captured, "cut_segments", planned, type(program.model).__name__)
    elsewhere = ungraded_time(lambda: rehearse(program, planned))
    parts = parts_of(segments_of(planned))
    if options.memory == "laser":
        found = _lowrank(program, planned, parts)
    elif options.approximate:
        found = _approximate(program, planned, parts, elsewhere)
    else:
        found = Found(tuple(_policies(program, parts, elsewhere)), 0.0, ({},) * len(parts))
    for part, policy, alone in zip(parts, found.policies, found.alone, strict=True):
        is_settled = options.approximate or isinstance(options.memory, (int, float))
        part.follow(Settled.on(part.values, policy) if is_settled else policy)
        part.segment.errors = alone
    if options.kernels == "inductor":
        compile_bodies(planned)
    nest = with_bodies(program.nest, planned)
    ranks = {tracked.site: tracked.rank for tracked in tracked_in(planned)}
    sites = tuple(replace(site, rank=ranks.get(site.key)) for site in program.sites)
    return replace(program, graph_module=planned, nest=nest, sites=sites, gradient_error=found.error)


def _lowrank(program: Program, planned: fx.GraphModule, parts: Sequence[Part]) -> Found:
    """The inputs of linears in low rank, everything else as in eager. What that does is measured, and not bounded."""
    tracking = _tracking(program.options)
    for part in parts:
        part.follow(AsEager())
    exact = gradients(program, planned)
    policies = tuple(AsEager(tracked_sites(part, tracking) if part.is_in_loop else {}) for part in parts)
    for part, policy in zip(parts, policies, strict=True):
        part.follow(policy)
    gradients(program, planned)  # bases are found at the first call, and serve the next ones
    return Found(policies, gradient_error(gradients(program, planned), exact), ({},) * len(parts))


def _tracking(options: Options) -> Tracking:
    return Tracking(
        fidelity=options.fidelity,
        rank=options.rank,
        share=options.rank_share,
        by_position=options.tracking == "position",
        centre=options.centre,
        alarm=options.reset_alarm,
    )


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


def _approximate(program: Program, planned: fx.GraphModule, parts: Sequence[Part], elsewhere: int) -> Found:
    memory, bound = program.options.memory, program.options.max_gradient_error
    menu = menu_of(program, planned, parts, _tracking(program.options))
    search = Approximation(parts, lambda: gradients(program, planned), bound, menu)
    if isinstance(memory, (int, float)):
        found = search.within(int(memory * sum(part.eager_bytes for part in parts)))
    else:
        limit = time_limit(parts, LEAN_OVERHEAD, elsewhere) if memory == "lean" else math.inf
        found = search.within(None, limit)
    if found is None:
        raise _too_small_within(program.options, parts, search.within(None))
    return found


def _too_small_within(options: Options, parts: Sequence[Part], least: Found | None) -> OptionError:
    kept = totals(parts, least.policies if least else [Priced()] * len(parts))
    fraction, bound = kept / sum(part.eager_bytes for part in parts), options.max_gradient_error
    return OptionError(
        f"memory is {options.memory}, and within {bound:g} of the gradients {fraction:.4f} is the least there is",
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
