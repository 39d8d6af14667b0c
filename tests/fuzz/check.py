"""What must hold of every case."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx

from laser_fx.errors import PassError
from laser_fx.passes.certificate import certify
from laser_fx.passes.detect import detect
from laser_fx.passes.near_miss import find_near_misses
from laser_fx.passes.normalise import normalise
from laser_fx.passes.reroll import Rolled
from laser_fx.passes.roll import roll
from tests.fuzz.build import SHAPES, Built, build, run_eagerly, tensors
from tests.fuzz.program import Case
from tests.fuzz.tamper import tamper

__all__ = ["equals_eager", "explains_itself", "finds_the_nest", "refuses_tampering", "same_bits"]

Run = Callable[[dict[str, Tensor]], Sequence[Tensor]]


def equals_eager(case: Case) -> Rolled:
    """Rolled, proved, and run: forward and gradients are eager's, bit by bit, and so is the random stream."""
    built = build(case)
    rolled = roll(built.graph_module, built.door, min_trip=2)
    wanted = _measured(lambda held: run_eagerly(case, held), case)
    made = _measured(lambda held: _run(rolled.graph_module, held), case)
    for name, value in wanted.items():
        assert same_bits(value, made[name]), f"{name} is not that of the model as written"
    return rolled


def finds_the_nest(case: Case) -> Rolled:
    """The loops that were written are the loops that are found."""
    rolled = equals_eager(case)
    assert rolled.nest.trips() == case.trips(), f"found {rolled.nest.trips()}, written {case.trips()}"
    return rolled


def explains_itself(case: Case) -> Rolled:
    """Near-misses are found, or not, without an error, and each has a sentence."""
    rolled = equals_eager(case)
    built = build(case)
    door = built.door
    view = normalise(built.graph_module.graph, door.identities, door.parameters, door.grad_enabled)
    for miss in find_near_misses(view, detect(view), door.states):
        assert miss.reason
        assert miss.operators > 0
    return rolled


def refuses_tampering(case: Case, choices: tuple[int, int]) -> bool:
    """A rolled graph with a defect is refused where it gives anything else; whether there was such a defect."""
    built = build(case)
    rolled = roll(built.graph_module, built.door, min_trip=2).graph_module
    broken = copy.deepcopy(rolled)
    what = tamper(broken, *choices)
    if what is None or not _differs(rolled, broken, case):
        return False
    assert not _is_accepted(built, broken), f"the certificate accepts a graph that gives something else: {what}"
    return True


def same_bits(a: Any, b: Any) -> bool:
    """Whether two tensors, or what stands in their place, are equal, NaN included."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return (a is None and b is None) or bool(a == b)
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(_bits(a), _bits(b)))


def _bits(value: Tensor) -> Tensor:
    return value.detach().reshape(-1).view(torch.uint8)


def _run(graph_module: fx.GraphModule, held: dict[str, Tensor]) -> Sequence[Tensor]:
    results: Sequence[Tensor] = graph_module(*(held[name] for name in SHAPES))
    return results


def _measured(run: Run, case: Case) -> dict[str, Any]:
    """Outputs, gradients of all leaves, and the next random number."""
    held = tensors(case)
    torch.manual_seed(11)
    with torch.set_grad_enabled(case.training):
        outputs = run(held)
    found: dict[str, Any] = {f"output {k}": value for k, value in enumerate(outputs)}
    found["the random stream"] = torch.rand(())
    trained = [value.square().sum() for value in outputs if value.requires_grad]
    if trained:
        torch.stack(trained).sum().backward()
        found |= {f"the gradient of {name}": value.grad for name, value in held.items()}
    return found


def _differs(rolled: fx.GraphModule, broken: fx.GraphModule, case: Case) -> bool:
    """Whether a graph gives anything else than the right one, or fails."""
    wanted = _measured(lambda held: _run(rolled, held), case)
    try:
        with redirect_stderr(StringIO()):  # fx prints the line that failed
            made = _measured(lambda held: _run(broken, held), case)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return True
    return wanted.keys() != made.keys() or not all(same_bits(value, made[name]) for name, value in wanted.items())


def _is_accepted(built: Built, broken: fx.GraphModule) -> bool:
    door = built.door
    try:
        certify(built.graph_module, broken, door.identities, door.parameters, door.grad_enabled)
    except (PassError, AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return False
    return True
