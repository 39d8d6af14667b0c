"""The one list of all options."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from laser_fx.errors import OptionError

__all__ = ["Options"]

Forward = Literal["lowrank", "exact"]
Memory = Literal["laser", "lean", "min"]
Products = Literal["fastest", "eager"]


@dataclass(frozen=True)
class Options:
    """What a compiled model may do, validated when it is made.

    Args:
        forward: what evaluation graphs compute at a site. ``"lowrank"`` goes through the tracked
            basis, ``"exact"`` leaves every linear as it is. A training forward is always exact.
        memory: what training graphs save for backward. At a site, ``"laser"`` saves the coefficients
            ``Z = XQ`` and the basis ``Q`` instead of ``X`` (arXiv 2604.17224); ``None`` saves what eager saves. The
            others are plans: ``"lean"`` saves the least bytes with which a step takes at most 5 % longer than in eager;
            ``"min"`` saves the least bytes; a number in (0, 1] is a fraction of what eager saves, to be met in the
            least time. They are exact, unless ``approximate`` is set.
        approximate: whether ``"min"`` and a fraction may keep values in fewer bits.
        max_gradient_error: in (0, 1). What they may do to the gradient of any parameter, ``‖g − g'‖ / ‖g‖``, measured
            on the example inputs when the plan is made.
        products: the kernels of matrix products in the backward of a plan. ``"fastest"`` takes the fastest one of this
            machine, which may sum in another order than torch's, so that gradients are eager's to rounding (1e-6);
            ``"eager"`` takes torch's: gradients of exact plans are eager's bitwise on the CPU.
        fidelity: in (0, 1]. No step uses a basis whose measured fidelity ``‖XQ‖²/‖X‖²`` is below it.
        rank: columns of every basis, or ``None`` for the least rank that meets the fidelity at each
            site on the example inputs.
        min_trip: shortest repetition that counts as a loop, at least 2.

    Raises:
        OptionError: naming the option, its value and the values allowed.

    >>> Options(fidelity=0.99).fidelity
    0.99
    >>> Options.exact().forward
    'exact'
    >>> Options(rank=0)
    Traceback (most recent call last):
        ...
    laser_fx.errors.OptionError: rank is 0
      where: Options.rank
      fix: choose a whole number of at least 1, or None
    """

    forward: Forward = "lowrank"
    memory: Memory | float | None = "laser"
    approximate: bool = False
    max_gradient_error: float = 1e-2
    products: Products = "fastest"
    fidelity: float = 0.999
    rank: int | None = None
    min_trip: int = 2

    def __post_init__(self) -> None:
        _one_of("forward", self.forward, get_args(Forward))
        _check_memory(self.memory)
        if not isinstance(self.approximate, bool):
            raise _bad("approximate", self.approximate, "choose True or False")
        if not _is_real(self.max_gradient_error) or not 0.0 < self.max_gradient_error < 1.0:
            raise _bad("max_gradient_error", self.max_gradient_error, "choose a number in (0, 1)")
        _one_of("products", self.products, get_args(Products))
        if not _is_real(self.fidelity) or not 0.0 < self.fidelity <= 1.0:
            raise _bad("fidelity", self.fidelity, "choose a number in (0, 1]")
        if self.rank is not None and (not _is_whole(self.rank) or self.rank < 1):
            raise _bad("rank", self.rank, "choose a whole number of at least 1, or None")
        if not _is_whole(self.min_trip) or self.min_trip < 2:
            raise _bad("min_trip", self.min_trip, "choose a whole number of at least 2")

    @classmethod
    def exact(cls, **changes: Any) -> Options:
        """Find, re-roll and export, but change no number: compiled equals eager bitwise on CPU fp32."""
        return cls(**{"forward": "exact", "memory": None, **changes})


def _check_memory(value: object) -> None:
    if _is_real(value):
        if not 0.0 < float(value) <= 1.0:  # type: ignore[arg-type]
            raise _bad("memory", value, "choose a fraction in (0, 1]")
    else:
        _one_of("memory", value, (*get_args(Memory), None))


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise _bad(name, value, "choose one of " + ", ".join(repr(a) for a in allowed))


def _bad(name: str, value: object, fix: str) -> OptionError:
    return OptionError(f"{name} is {value!r}", where=f"Options.{name}", fix=fix)
