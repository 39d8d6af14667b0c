"""The page: what the measurements say, written from the figures alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

__all__ = ["page", "radius"]

Figures = dict[str, Any]

SETTLED = 1e-2
"""A puzzle whose state the last supervision step moves by less than this part counts as settled."""

_HEAD = """# Is the recursion contracting?

Written by `{command}` from [`benchmarks/results/dynamics.json`](../benchmarks/results/dynamics.json); do not edit.

{answer}

![Change of the state by supervision step, puzzle by puzzle, and spectral radius of each loop](dynamics.png)
"""

_SETUP = """## What was measured

Both models of the zoo, as shipped, solve held-out 6×6 sudoku in {steps} supervision steps; beside each the same
model with weights drawn anew by each module's `reset_parameters`, one draw. A small change δ to the state that a loop
carries becomes Jδ after one step, J being the Jacobian of the loop's body at that state. If the step is repeated near
a fixed point, δ shrinks where the spectral radius ρ(J) is below 1, however large the norm ‖J‖, which bounds what one
step may do to it. Nothing follows from ρ < 1 far from a fixed point, so the change of the state is shown beside it.

J is never made: its leading eigenvalues come from some 60 products, by Arnoldi's method with restarts, on
{jacobian_rows} puzzles at once, so each radius is that of the puzzle with the larger one.
`laser_fx.inspect(model, inputs, measure="dynamics")` does the same for any model.

- ρ and ‖J‖: at the first and the last step of each loop; ‖J‖ is a lower bound. The residual is that of the eigenvalue
  at the last step, `‖Jv − λv‖ / |λ|`: where 1 lies within it of ρ, whether the loop contracts counts as undecided.
- ‖Δz‖/‖z‖: of the last supervision step, the median of {rows} puzzles and the largest.
- rank: columns that hold 99 % of the energy of a linear's input, of what there can be: the median over the sites of
  the innermost loop, first step → last; centred: with the mean of the rows taken off.
- drift: root mean square angle, in degrees, between that subspace and the one of the step before, first → last.
"""


def page(figures: Figures) -> str:
    """The page, Markdown."""
    models = figures["models"]
    first = next(iter(models.values()))
    parts = [
        _HEAD.format(command=figures["command"], answer="\n".join(_answer(models))),
        _SETUP.format(steps=first["steps"], rows=first["rows"], jacobian_rows=first["jacobian_rows"]),
        *(_model(name, model) for name, model in models.items()),
        _conditions(figures),
    ]
    return "\n".join(parts)


def radius(step: dict[str, Any]) -> float:
    """The largest modulus of a step's eigenvalues."""
    return max(abs(complex(*value)) for value in step["eigenvalues"])


def _answer(models: dict[str, Any]) -> Iterator[str]:
    for name, model in models.items():
        trained, untrained = model["trained"], model["untrained"]
        yield f"- **{name}**, trained: {_settled(trained)}. {_contracts(trained)}"
        yield f"  With weights drawn anew: {_settled(untrained)}. {_contracts(untrained)}"


def _settled(arm: dict[str, Any]) -> str:
    count = len(arm["puzzles"])
    still = [puzzle for puzzle in arm["puzzles"] if puzzle["change"][-1] < SETTLED]
    moving = [puzzle for puzzle in arm["puzzles"] if puzzle["change"][-1] >= SETTLED]
    if not still:
        return f"the state of none of {count} puzzles settles, {_solved(moving)}"
    said = f"the state of {len(still)} of {count} puzzles settles, {_solved(still)}"
    return f"{said}; that of {len(moving)} keeps moving, {_solved(moving)}" if moving else said


def _solved(puzzles: list[dict[str, Any]]) -> str:
    solved = sum(puzzle["solved"] for puzzle in puzzles)
    return f"{'all' if solved == len(puzzles) else solved or 'none'} of them solved"


def _contracts(arm: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{loop['loop']} {_verdict(loop['steps'][-1])}" for loop in arm["loops"])
    return f"At its last step {verdicts}."


def _verdict(step: dict[str, Any]) -> str:
    value = radius(step)
    decided = abs(value - 1.0) > step["residuals"][0] * value
    word = ("contracts" if value < 1.0 else "expands") if decided else "is undecided"
    return f"{word} (ρ {value:.2f})"


def _model(name: str, model: dict[str, Any]) -> str:
    trips = " ⊃ ".join(f"{loop} × {count}" for loop, count in model["nest"])
    lines = [
        f"## {name}",
        "",
        f"Steps in all: {trips}.",
        "",
        "| | loop | ρ first → last | ‖J‖ first → last | residual |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm in ("trained", "untrained"):
        lines.extend(_loop(arm, loop) for loop in model[arm]["loops"])
    lines += [
        "",
        "| | ‖Δz‖/‖z‖, median | largest | rank | centred | drift |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_states(arm, model[arm]) for arm in ("trained", "untrained")),
        "",
    ]
    return "\n".join(lines)


def _loop(arm: str, loop: dict[str, Any]) -> str:
    if not loop["steps"]:
        return f"| {arm} | {loop['loop']} | {loop['not_measured']} | | |"
    first, last = loop["steps"][0], loop["steps"][-1]
    residual = last["residuals"][0]
    return (
        f"| {arm} | {loop['loop']} | {radius(first):.2f} → {radius(last):.2f} "
        f"| {first['norm']:.1f} → {last['norm']:.1f} | {residual:.0e} |"
    )


def _states(arm: str, found: dict[str, Any]) -> str:
    changes = [puzzle["change"][-1] for puzzle in found["puzzles"]]
    steps = max(found["sites"], key=lambda site: len(site["loop"]))["steps"]
    first, last = steps[0], steps[-1]
    return (
        f"| {arm} | {statistics.median(changes):.1e} | {max(changes):.1e} "
        f"| {first['rank_share']:.0%} → {last['rank_share']:.0%} "
        f"| {first['centred_share']:.0%} → {last['centred_share']:.0%} "
        f"| {_degrees(steps[1])} → {_degrees(last)} |"
    )


def _degrees(step: dict[str, Any]) -> str:
    return f"{57.29578 * step['drift']:.0f}°"


def _conditions(figures: Figures) -> str:
    environment = ", ".join(f"{name} {value}" for name, value in figures["environment"].items())
    return (
        "## Conditions\n\n"
        f"`{figures['command']}`; {figures['cpu_seconds']} CPU seconds, {figures['threads']} thread; float32; "
        f"{environment}.\nOne draw of untrained weights, twelve puzzles and two for the Jacobians: the direction of "
        "what is found is plain, its size is an example's.\n"
    )
