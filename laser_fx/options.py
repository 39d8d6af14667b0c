"""The one list of all options."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from laser_fx.calibration import check_schedule
from laser_fx.errors import OptionError

__all__ = ["Options", "Sites"]

Forward = Literal["lowrank", "exact"]
Basis = Literal["tracked", "frozen", "per_step"]
Objective = Literal["activation", "output", "either"]
Sites = Literal["paying", "all"]
Memory = Literal["laser", "lean", "min"]
Products = Literal["fastest", "eager"]
Kernels = Literal["eager", "inductor"]
Tracking = Literal["step", "segment", "position"]
CodecName = Literal["int8", "int4", "lowrank", "lowrank_int8"]


@dataclass(frozen=True)
class Options:
    """What a compiled model may do, validated when it is made.

    Args:
        forward: what evaluation graphs compute at a site. ``"lowrank"`` goes through the tracked
            basis, ``"exact"`` leaves every linear as it is. A training forward is always exact.
        basis: where the bases of an evaluation come from: ``"tracked"`` ones follow the loop, ``"frozen"`` ones are
            those of the calibration that is given to `compile`, one for all steps of a site, see `laser_fx.calibrate`;
            ``"per_step"`` are also the calibration's, one for each step: an exported file's depth is fixed then.
        rank_schedule: with calibrated bases, the share of a site's rank by step of the outermost loop, counted from the
            last one: numbers in (0, 1], or ``"exact"`` for steps without a basis. The first entry holds for all earlier
            steps too. ``(0.5, 1.0, "exact")`` is exact at the last step, of whole rank at the one before, and of half
            of it at all others. None: what the calibration says. The loop is split, so that no step pays for a choice.
        objective: what a tracked basis of an evaluation keeps at a site: ``"activation"`` X itself, ``"output"`` the
            product ``XWᵀ``, where what is lost is an estimate by a few fixed probes; ``"either"`` whichever is faster
            at the fidelity on the example inputs, site by site.
        sites: where an evaluation uses tracked bases: ``"paying"`` where the cost model finds them faster than the
            exact linear, at the sizes of the example inputs and with the refreshes that these take; ``"all"``
            everywhere.
        measure: whether every step through a frozen basis measures what it keeps, for `CompiledModel.report` and the
            statistics of an exported file: exactly for the objective ``"activation"``, and as an estimate by a few
            fixed probes for ``"output"``. It changes no answer, and takes time.
        memory: what training graphs save for backward. At a site, ``"laser"`` saves the coefficients
            ``Z = XQ`` and the basis ``Q`` instead of ``X`` (arXiv 2604.17224); ``None`` saves what eager saves. The
            others are plans: ``"lean"`` saves the least bytes with which a step takes at most 5 % longer than in eager;
            ``"min"`` saves the least bytes; a number in (0, 1] is a fraction of what eager saves, to be met in the
            least time. They are exact, unless ``approximate`` is set.
        tracking: with ``memory="laser"``, what a basis serves: ``"step"`` follows the loop from step to step, as the
            paper has it; ``"segment"`` keeps one basis for all steps of a call, pools what they say about a better one
            and takes that one in the next call; ``"position"`` does so for each step by itself.
        centre: whether ``"segment"`` and ``"position"`` take the mean of the rows off first. Fidelity is then that of
            what is left, ``‖(X − μ)Q‖²/‖X − μ‖²``.
        rank_share: in (0, 1]. The largest part of an activation's bytes that its coefficients and basis may take there;
            a step that needs more keeps the activation.
        reset_alarm: in [0, 1]. With ``memory="laser"``, a site is warned of, once, under the name ``laser_fx``, when a
            larger share of its steps in a call makes a basis of its own; the first of a loop always does.
        approximate: whether the plans of ``"lean"``, ``"min"`` and a number may keep values with other codecs than
            exactly.
        codecs: those that they may take then.
        max_gradient_error: in (0, 1). What they may do to the gradient of any parameter, and of any input that asks
            for one, ``‖g − g'‖ / ‖g‖``, measured on the example inputs when the plan is made. Gradients below a
            millionth of the largest one are rounding.
        products: the kernels of matrix products in the backward of a plan. ``"fastest"`` takes the fastest one of this
            machine, which may sum in another order than torch's, so that gradients are eager's to rounding (1e-6);
            ``"eager"`` takes torch's: gradients of exact plans are eager's bitwise on the CPU.
        kernels: what runs the bodies of loops and the segments of a planned training graph: ``"eager"`` one operator
            after the other; ``"inductor"`` as `torch.compile` does, which fuses operators, needs a C++ compiler on the
            CPU and a new compilation for every form of the inputs, and is eager's to rounding.
        fidelity: in (0, 1]. No step uses a basis whose fidelity is below it: ``‖XQ‖²/‖X‖²`` as measured in that step;
            with the objective ``"output"``, as estimated.
        rank: columns of every basis, or ``None`` for the least rank that meets the fidelity at each
            site on the example inputs.
        min_trip: shortest repetition that counts as a loop, at least 2.
        free_sizes: sizes of inputs besides the leading one that stay open, by input, dimension and the name that a file
            has for them: ``{"tokens": {1: "length"}}``. Where the model's code needs a size, it stays as in the example
            inputs, and a warning says so. Kept as a tuple of (input, dimension, name).

    Raises:
        OptionError: naming the option, its value and the values allowed. Also where an option would be without effect:
            ``approximate`` without a plan or without codecs, ``tracking`` and ``centre`` without bases to keep.

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
    basis: Basis = "tracked"
    rank_schedule: tuple[float | Literal["exact"], ...] | None = None
    objective: Objective = "activation"
    sites: Sites = "paying"
    measure: bool = True
    memory: Memory | float | None = "laser"
    tracking: Tracking = "step"
    centre: bool = False
    rank_share: float = 1.0
    reset_alarm: float = 0.5
    approximate: bool = False
    codecs: tuple[CodecName, ...] = ("int8", "int4")
    max_gradient_error: float = 1e-2
    products: Products = "fastest"
    kernels: Kernels = "eager"
    fidelity: float = 0.999
    rank: int | None = None
    min_trip: int = 2
    free_sizes: tuple[tuple[str, int, str], ...] | Mapping[str, Mapping[int, str]] = ()

    def __post_init__(self) -> None:
        _one_of("forward", self.forward, get_args(Forward))
        _one_of("basis", self.basis, get_args(Basis))
        _one_of("objective", self.objective, get_args(Objective))
        _one_of("sites", self.sites, get_args(Sites))
        _check_memory(self.memory)
        for name in ("approximate", "centre", "measure"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, getattr(self, name), "choose True or False")
        if not _is_real(self.max_gradient_error) or not 0.0 < self.max_gradient_error < 1.0:
            raise _bad("max_gradient_error", self.max_gradient_error, "choose a number in (0, 1)")
        if not _is_real(self.rank_share) or not 0.0 < self.rank_share <= 1.0:
            raise _bad("rank_share", self.rank_share, "choose a number in (0, 1]")
        if not _is_real(self.reset_alarm) or not 0.0 <= self.reset_alarm <= 1.0:
            raise _bad("reset_alarm", self.reset_alarm, "choose a number in [0, 1]")
        self._check_schedule()
        _one_of("tracking", self.tracking, get_args(Tracking))
        _one_of("products", self.products, get_args(Products))
        _one_of("kernels", self.kernels, get_args(Kernels))
        if isinstance(self.codecs, list):  # as JSON has it
            object.__setattr__(self, "codecs", tuple(self.codecs))
        if not isinstance(self.codecs, tuple) or not all(name in get_args(CodecName) for name in self.codecs):
            raise _bad("codecs", self.codecs, f"choose a tuple of {', '.join(map(repr, get_args(CodecName)))}")
        if not _is_real(self.fidelity) or not 0.0 < self.fidelity <= 1.0:
            raise _bad("fidelity", self.fidelity, "choose a number in (0, 1]")
        if self.rank is not None and (not _is_whole(self.rank) or self.rank < 1):
            raise _bad("rank", self.rank, "choose a whole number of at least 1, or None")
        if not _is_whole(self.min_trip) or self.min_trip < 2:
            raise _bad("min_trip", self.min_trip, "choose a whole number of at least 2")
        object.__setattr__(self, "free_sizes", _checked_sizes(self.free_sizes))
        self._check_together()

    def _check_schedule(self) -> None:
        if isinstance(self.rank_schedule, list):  # as JSON has it
            object.__setattr__(self, "rank_schedule", tuple(self.rank_schedule))
        if self.rank_schedule is None:
            return
        wrong = check_schedule(self.rank_schedule)
        if wrong is not None:
            raise _bad("rank_schedule", self.rank_schedule, f"{wrong}: choose for example (0.5, 1.0, 'exact')")
        if self.basis == "tracked":
            raise _bad("rank_schedule", self.rank_schedule, "choose basis='frozen' or 'per_step'")

    def _check_together(self) -> None:
        """Refuse what would be without effect, and so promise something that is not done."""
        if self.approximate and self.memory in (None, "laser"):
            raise _bad("approximate", True, f"choose memory='lean', 'min' or a fraction: {self.memory!r} is no plan")
        if self.approximate and not self.codecs:
            raise _bad("codecs", self.codecs, "choose at least one, or approximate=False")
        in_plan = self.approximate and any(name.startswith("lowrank") for name in self.codecs)
        if self.tracking != "step" and not (in_plan or self.memory == "laser"):
            raise _bad("tracking", self.tracking, "choose memory='laser', or approximate=True and a codec of low rank")
        if self.centre and not (in_plan or self.tracking != "step"):
            raise _bad("centre", True, "choose tracking='segment' or 'position'")

    @property
    def open_sizes(self) -> tuple[tuple[str, int, str], ...]:
        """``free_sizes`` as it is kept: input, dimension, name."""
        return tuple(self.free_sizes)  # type: ignore[arg-type]

    @classmethod
    def exact(cls, **changes: Any) -> Options:
        """Find, re-roll and export, but change no number: compiled equals eager bitwise on CPU fp32.

        With a plan, ``exact(memory=…)``, gradients equal eager's to rounding; bitwise with ``products="eager"``.
        """
        return cls(**{"forward": "exact", "memory": None, **changes})


def _checked_sizes(value: Any) -> tuple[tuple[str, int, str], ...]:
    """As a tuple, whatever of its forms it comes in."""
    fix = 'choose for example {"tokens": {1: "length"}}'
    if isinstance(value, Mapping):
        if not all(isinstance(axes, Mapping) for axes in value.values()):
            raise _bad("free_sizes", value, fix)
        value = tuple((name, axis, size) for name, axes in value.items() for axis, size in axes.items())
    if not isinstance(value, tuple | list) or not all(isinstance(entry, tuple | list) for entry in value):
        raise _bad("free_sizes", value, fix)
    entries = tuple(tuple(entry) for entry in value)
    for entry in entries:
        fits = len(entry) == 3 and isinstance(entry[0], str) and _is_whole(entry[1]) and isinstance(entry[2], str)
        if not fits or entry[1] < 1 or not entry[2].isidentifier():
            raise _bad("free_sizes", value, f"{fix}: dimensions count from 0, and the leading one is free anyway")
    return entries


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
