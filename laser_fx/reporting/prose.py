"""What a report says, in sentences for somebody who never heard of the method."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from laser_fx.loops import LoopNest
from laser_fx.reporting import format as fmt

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["deepest", "found", "introduction"]


def introduction(report: Report) -> str:
    """What this page is about.

    >>> from laser_fx.reporting import Report
    >>> introduction(Report("Linear")).split(". ")[0]
    'laser-fx looked in Linear for steps that apply the same weights again and again, and found none'
    """
    if not report.loops:
        return (
            f"laser-fx looked in {report.model} for steps that apply the same weights again and again, and found none."
            " So there is no loop to roll up and no activation to follow through one: the model runs as it is."
        )
    path = deepest(report.loops)
    times = " × ".join(f"{trips:,}" for trips in path)
    times += f" = {math.prod(path):,}" if len(path) > 1 else ""
    loops = sum(1 for _ in report.loops.walk())
    text = (
        f"{report.model} is a recursive model: in one call it applies the same weights again and again to a state that"
        f" it carries from step to step. laser-fx found {_counted(loops, 'such loop')}; the deepest one runs its body"
        f" {times} times."
    )
    if report.graph:
        text += f" It rolled the {report.graph.captured:,} operations of the call up into {report.graph.rolled:,}."
    if report.sites:
        text += (
            f" In the loops are {_counted(len(report.sites), 'site')}: linear layers, each of which sees a new"
            " activation at every step. If those activations stay close to a few directions, a small basis of them can"
            " stand for the whole, which is the method called LASER. Fidelity is the share of an activation that its"
            f" basis keeps, 1 being all of it; a step whose basis keeps less than {report.options.fidelity:g} uses the"
            " exact activation instead."
        )
    return text


def found(report: Report) -> list[str]:
    """The findings, a sentence each: what was measured, and nothing else."""
    sentences = (*_ranks(report), *_steps(report), *_carries(report), *_dynamics(report), *_memory(report))
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def deepest(nest: LoopNest) -> tuple[int, ...]:
    """Trip counts from an outermost loop to the most deeply nested one; of equally deep ones the one that runs most.

    >>> from laser_fx.loops import Loop
    >>> deepest(LoopNest((Loop("loop_0", 9), Loop("loop_1", 2, children=(Loop("loop_1_0", 3),)))))
    (2, 3)
    """
    path: list[int] = []
    paths: list[tuple[int, ...]] = [()]
    for level, trips in nest.trips():
        path[level:] = [trips]
        paths.append(tuple(path))
    return max(paths, key=lambda path: (len(path), math.prod(path)))


def _share_of_directions(report: Report) -> float | None:
    told = (site for site in report.sites if len(site.rank_at) > 2 and site.site.features)
    shares = [site.rank_at[2] / site.site.features for site in told]
    return median(shares) if shares else None


def _ranks(report: Report) -> Iterator[str]:
    share = _share_of_directions(report)
    if share is None:
        return
    text = f"Half of the sites need {fmt.percent(share)} of their directions or fewer to hold 99 % of their activation."
    control = _share_of_directions(report.control) if report.control else None
    if control is not None:
        text = f"{text[:-1]}; with untrained weights it is {fmt.percent(control)}."
    yield text


def _steps(report: Report) -> Iterator[str]:
    steps = sum(len(site.steps) for site in report.sites)
    if not steps:
        return
    resets, exact = (sum(getattr(site, name) for site in report.sites) for name in ("resets", "exact"))
    lowest = [site.lowest_fidelity for site in report.sites if site.lowest_fidelity is not None]
    text = f"Of {_counted(steps, 'step')} at sites {_part(resets, steps)} made a fresh basis, and {_part(exact, steps)}"
    text += " used the exact activation."
    yield f"{text} The lowest fidelity that a step used is {fmt.fidelity(min(lowest))}." if lowest else text


def _part(some: int, of: int) -> str:
    return "none" if not some else f"{some:,} ({fmt.percent(some / of)})"


def _carries(report: Report) -> Iterator[str]:
    if not report.trajectories:
        return
    settled = [series for series in report.trajectories if series.converged_at is not None]
    carries = _counted(len(report.trajectories), "carried value")
    if not settled:
        yield f"Of {carries} none settled: the last step still changes each by 1 % or more."
        return
    some = "all" if len(settled) == len(report.trajectories) > 1 else len(settled)
    yield f"Of {carries} {some} settled: from some step on, a step changes it by less than 1 %."


def _dynamics(report: Report) -> Iterator[str]:
    for loop in report.dynamics:
        if loop.steps and loop.not_measured is None:
            verb = {True: "contracts", False: "does not contract", None: "may or may not contract"}[loop.contracting]
            about = "about " if loop.contracting is None else ""
            yield (
                f"{loop.loop} {verb} at the last step measured: the largest eigenvalue of its Jacobian has modulus"
                f" {about}{loop.steps[-1].radius:.3g}."
            )


def _memory(report: Report) -> Iterator[str]:
    if len(report.memory) > 1 and report.memory[0].total:
        eager, *arms = report.memory
        parts = ", ".join(f"{arm.name} {fmt.percent(arm.total / eager.total)}" for arm in arms)
        yield f"Of the {fmt.bytes_(eager.total)} that a training step holds for backward in eager, remain: {parts}."
