"""Whether the recursion contracts: leading eigenvalues of each loop body's Jacobian, along the carried states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.memory.operators import is_random
from laser_fx.program import Program
from laser_fx.reporting.instruments.jacobian import Jacobian
from laser_fx.reporting.instruments.krylov import leading_eigenvalues, norm_bound
from laser_fx.reporting.instruments.progress import told
from laser_fx.reporting.instruments.spectrum import rounded
from laser_fx.reporting.instruments.watch import Runner, Watcher, sampled, watch
from laser_fx.reporting.measured import JacobianStep, LoopDynamics
from laser_fx.rolled import RolledLoop
from laser_fx.sentences import first_line

__all__ = ["measure_dynamics"]

_STEPS = 8
"""Steps of a loop that are measured."""
_EIGENVALUES = 6
_LARGEST = 5_000_000
"""Numbers in a state at which the vectors that are held take a gigabyte."""
_SEED = 0
_SHOWN = 200
"""Letters of what went wrong in a step."""


def measure_dynamics(program: Program, steps: int = _STEPS) -> tuple[LoopDynamics, ...]:
    """Measure every loop of the exact graph, on the example inputs; in float32 where the model is of half precision.

    The Jacobian is that of one step of a loop, all loops inside it included, with respect to everything that it carries
    and that is floating. It is never made: some 60 products with it, and a few with its transpose, are. Rows of a batch
    that a model computes apart bring their eigenvalues each. A radius below 1 says that a small change to the state
    shrinks in the long run if the step is repeated as it is there; the norm, what may happen to it in that one step.

    Args:
        program: any program.
        steps: how many steps of each loop at most, evenly spaced, the first and the last among them.
    """
    loops = {loop.name: loop for loop in _loops(program)}
    nest = program.unsplit or program.nest
    chosen = {name: sampled(prod(nest.trips_around(name)), steps) for name in loops}
    watcher = _Dynamics(loops, chosen)
    watch(program, program.rolled, watcher, wide=True)
    return tuple(watcher.result(name) for name in (loop.name for loop in nest.walk()))


def _loops(program: Program) -> list[RolledLoop]:
    return [module for module in program.rolled.modules() if isinstance(module, RolledLoop)]


class _Dynamics(Watcher):
    def __init__(self, loops: Mapping[str, RolledLoop], chosen: Mapping[str, Sequence[int]]) -> None:
        self.chosen = {name: frozenset(steps) for name, steps in chosen.items()}
        self.places = {name: _floating(loop) for name, loop in loops.items()}
        self.why_not = {name: why for name, loop in loops.items() if (why := _refusal(loop, self.places[name]))}
        self.found: dict[str, list[JacobianStep]] = {name: [] for name in loops}
        self.sizes = dict.fromkeys(loops, 0)
        self.done, self.of = count(), sum(len(s) for n, s in chosen.items() if n not in self.why_not)

    def before_step(self, loop: RolledLoop, step: int, inputs: Sequence[Any]) -> None:
        name = loop.name
        if step not in self.chosen[name] or name in self.why_not:
            return
        jacobian = Jacobian(_body(loop), inputs, self.places[name])
        self.sizes[name] = jacobian.size
        if not jacobian.size:
            self.why_not[name] = "what is carried holds no number: the example inputs are empty"
            return
        if jacobian.size > _LARGEST:
            self.why_not[name] = f"{jacobian.size:,} numbers are carried, more than {_LARGEST:,}: give it fewer rows"
            return
        told("dynamics", next(self.done), self.of)
        try:
            self.found[name].append(_measured(step, jacobian))
        except (RuntimeError, NotImplementedError, ArithmeticError) as error:
            self.why_not[name] = f"step {step} cannot be differentiated: {first_line(error)[:_SHOWN]}"

    def result(self, name: str) -> LoopDynamics:
        """What was found of a loop, and why there is not more."""
        return LoopDynamics(name, self.sizes[name], tuple(self.found[name]), self.why_not.get(name))


def _refusal(loop: RolledLoop, places: Sequence[int]) -> str | None:
    if not places:
        return "nothing floating is carried"
    levels = [module for module in loop.body.modules() if isinstance(module, fx.GraphModule)]
    if any(is_random(node) for level in levels for node in level.graph.nodes):
        return "the body draws random numbers"
    return None


def _floating(loop: RolledLoop) -> tuple[int, ...]:
    holders = loop.body.graph.find_nodes(op="placeholder")[: loop.carry_count]
    values = [holder.meta["val"] for holder in holders]
    return tuple(p for p, value in enumerate(values) if isinstance(value, Tensor) and value.is_floating_point())


def _body(loop: RolledLoop) -> Callable[..., Any]:
    return Runner(loop.body, wide=True).run


def _measured(step: int, jacobian: Jacobian) -> JacobianStep:
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(jacobian.size, generator=generator, dtype=torch.float64).to(jacobian.device)
    rounding = max(torch.finfo(state.dtype).eps for state in jacobian.states)  # of the products
    found = leading_eigenvalues(_finite(jacobian.product), start, _EIGENVALUES)
    return JacobianStep(
        step=step,
        eigenvalues=tuple((rounded(e.value.real), rounded(e.value.imag)) for e in found),
        residuals=tuple(float(f"{max(e.residual, rounding):.2g}") for e in found),
        norm=rounded(norm_bound(_finite(jacobian.product), _finite(jacobian.transposed), start)),
    )


def _finite(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def checked(vector: Tensor) -> Tensor:
        result = product(vector)
        if not bool(result.isfinite().all()):
            raise ArithmeticError("its Jacobian is not finite")
        return result

    return checked
