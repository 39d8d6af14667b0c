"""`bench`: makes the arms ready, and lets their rounds take turns."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from laser_fx.bench.arms import ARMS, Call, Subject, Unready
from laser_fx.bench.result import ArmResult, BenchResult
from laser_fx.errors import InputError, LaserError, OptionError
from laser_fx.options import Options
from laser_fx.progress import each, stage
from laser_fx.reporting import environment
from laser_fx.reporting.instruments.modes import evaluating
from laser_fx.sentences import first_line

__all__ = ["bench"]

_LEAST_SECONDS = 0.02
"""Of one round of eager: a shorter one would be the clock's."""
_MOST_CALLS = 200


@dataclass(frozen=True)
class _Lane:
    result: ArmResult
    call: Call
    answer: list[Tensor]


def bench(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    options: Options | None = None,
    rounds: int = 5,
    arms: Sequence[str] = (),
    training: bool = True,
) -> BenchResult:
    """Time a model as it is, and the ways of running it that this package and torch have.

    Args:
        model: any model; it is run in evaluation mode, without gradients.
        args: positional arguments of one call.
        kwargs: keyword arguments of it.
        options: those of the arm ``"compiled"``.
        rounds: in each of them every arm runs once, one after the other.
        arms: names of `ARMS`; all of them unless given. Eager, which the others are compared with, always runs.
        training: also measure what a training call keeps for backward.

    Raises:
        OptionError: an unknown arm, or less than one round.
        InputError: the model fails on these arguments.

    >>> model = nn.Linear(8, 8)
    >>> result = bench(model, (torch.ones(4, 8),), rounds=2, arms=("eager",))
    >>> result.arms[0].name, len(result.arms[0].seconds), result.arms[0].saved_bytes
    ('eager', 2, 0)
    """
    _check(rounds, arms)
    names = [name for name in ARMS if name == "eager" or not arms or name in arms]
    quiet = warnings.catch_warnings()
    with (
        evaluating(model),
        tempfile.TemporaryDirectory() as folder,
        torch.inference_mode(False),
        torch.no_grad(),
        quiet,
    ):
        warnings.simplefilter("ignore")  # of inductor, and of models without a loop: the table says enough
        subject = Subject(model, args, kwargs or {}, options or Options(), Path(folder), tuple(arms))
        lanes, failed = _ready(subject, names)
        calls = _calls(lanes[0])
        seconds = _rounds(lanes, rounds, calls)
        found = [_measured(lane, seconds[lane.result.name], lanes[0]) for lane in lanes] + failed
        if training:
            found = [replace(one, saved_bytes=_saved(subject, one.name)) for one in found]
    found.sort(key=lambda one: names.index(one.name))
    tensors = [x for x in pytree.tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)]
    return BenchResult(type(model).__name__, tuple(map(_text, tensors)), calls, tuple(found), environment())


def _check(rounds: int, arms: Sequence[str]) -> None:
    if rounds < 1:
        raise OptionError(f"rounds is {rounds}", where="bench", fix="choose a whole number of at least 1")
    if unknown := [name for name in arms if name not in ARMS]:
        raise OptionError(f"there is no arm {unknown[0]!r}", where="bench", fix=f"choose among {', '.join(ARMS)}")


def _ready(subject: Subject, names: Sequence[str]) -> tuple[list[_Lane], list[ArmResult]]:
    lanes, failed = [], []
    for name in names:
        result = ArmResult(name, ARMS[name].about)
        try:
            with stage(f"preparing {name}"):
                lanes.append(_lane(subject, result))
        except (LaserError, Unready) as error:
            failed.append(replace(result, failed=str(error).splitlines()[0]))
        except Exception as error:  # inductor and eager models may raise anything
            if name == "eager":
                what = f"the model fails on the inputs: {type(error).__name__}: {error}"
                raise InputError(what, where=type(subject.model).__name__, fix="pass inputs that fit it") from error
            failed.append(replace(result, failed=f"{type(error).__name__}: {first_line(error)}"[:200]))
    return lanes, failed


def _lane(subject: Subject, result: ArmResult) -> _Lane:
    began = time.perf_counter()
    call = ARMS[result.name].ready(subject)
    answer = _answer(call)
    return _Lane(replace(result, prepare_seconds=time.perf_counter() - began), call, answer)


def _answer(call: Call) -> list[Tensor]:
    """What it answers, with the same random numbers for every arm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        leaves = [x for x in pytree.tree_leaves(call()) if isinstance(x, Tensor)]
    return [leaf.detach().clone() for leaf in leaves]


def _calls(eager: _Lane) -> int:
    """How many calls make a round long enough to be timed."""
    taken = min(_timed(eager.call, 1) for _ in range(3))
    return max(1, min(_MOST_CALLS, round(_LEAST_SECONDS / max(taken, 1e-9))))


def _rounds(lanes: Sequence[_Lane], rounds: int, calls: int) -> dict[str, tuple[float, ...]]:
    seconds: dict[str, list[float]] = {lane.result.name: [] for lane in lanes}
    for number in each("timing, in turns", range(rounds)):
        first = number % len(lanes)  # whoever follows another one finds its caches: everybody does in turn
        for lane in (*lanes[first:], *lanes[:first]):
            seconds[lane.result.name].append(_timed(lane.call, calls))
    return {name: tuple(taken) for name, taken in seconds.items()}


def _timed(call: Call, calls: int) -> float:
    """Seconds of one call, the mean of so many."""
    _wait()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    _wait()
    return (time.perf_counter() - began) / calls


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _measured(lane: _Lane, seconds: tuple[float, ...], eager: _Lane) -> ArmResult:
    return replace(lane.result, seconds=seconds, error=_error(lane.answer, eager.answer))


def _error(actual: Sequence[Tensor], wanted: Sequence[Tensor]) -> float | None:
    """Largest difference of any output, over the largest value of that output; None where they cannot be compared."""
    if [tuple(x.shape) for x in actual] != [tuple(x.shape) for x in wanted]:
        return None
    pairs = [(a.double().cpu(), w.double().cpu()) for a, w in zip(actual, wanted, strict=True) if w.numel()]
    errors = [_off(a, w) for a, w in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)


def _off(actual: Tensor, wanted: Tensor) -> float:
    """NaN where one is not finite and the other is; masks of infinities that are alike are no difference."""
    alike = (actual == wanted) | (actual.isnan() & wanted.isnan())
    finite = wanted[wanted.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 1.0
    difference = torch.where(alike, 0.0, actual - wanted).abs()
    return float(difference.max()) / max(largest, 1e-30) if difference.isfinite().all() else math.nan


def _saved(subject: Subject, name: str) -> int | None:
    if ARMS[name].train is None:
        return None
    with stage(f"measuring a training call: {name}"):
        return ARMS[name].saved(subject)


def _text(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}[{','.join(map(str, tensor.shape))}]"
