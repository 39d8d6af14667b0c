"""The basis of a low-rank site in training: kept between calls, tracked over all steps of a call at once.

A call of the model runs its loop, and each step of it encodes one activation:

    codec, parts = basis.encode(x)   # at each step; codec is None where x itself has to be kept
    basis.finish()                   # once a call, after the last step

A basis that follows each step trails the loop: the next call starts where the loop began, not where it ended. So the
basis at hand serves all steps of a call, what the steps say about a better one is pooled, and `finish` makes that one.
It assigns new tensors and writes into none: those that autograd keeps stay what they are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from laser_fx import subspace
from laser_fx.errors import NonFiniteError, OptionError
from laser_fx.events import tell
from laser_fx.loops import Step
from laser_fx.memory.codecs import Codec, LowRank
from laser_fx.memory.pools import Basis, Measured, Pool, without_mean

__all__ = ["TrackedBasis"]

_FIRST_WIDTH = 16
"""Columns of the first sketch at a site of which nothing is known; doubled until they suffice."""

_MEMORY = 0.5
"""Weight of what calls before say, against what this one does: a training batch may be several unlike calls."""

_AIM = 0.5
"""The basis of all steps aims at this part of ``1 − fidelity``: some steps are below what holds on the whole."""

_PRESSED = 0.75
"""A step that uses more than this part of ``1 − fidelity`` asks for a better basis before the next regular update."""


class TrackedBasis(nn.Module):
    """The basis Q of one value of a body: one object for all steps, or one for each step position.

    At each step the fidelity of the call's basis is measured. Below the threshold, the last fresh one of this call is
    tried, then the basis is tracked for this step alone: one power iteration. Below it still, a fresh one is made of
    this step (a reset: a randomised range finder whose sketch is made from ``name``); where that one falls below as
    well, the step is kept exactly. The fidelity is ``‖XQ‖²/‖X‖²``; with ``centre`` it is the
    centred fidelity, the same of ``X − mean``, where ``mean`` is that of the rows of the call before. Both are of the
    coefficients before ``inner`` stores them. Deciding takes one number off the device at each step.

    `finish` weighs what was pooled with what the calls before left, and adapts the rank: the least one that loses half
    of what the fidelity allows, and an eighth more, at least four, since a basis trails the values that it will see.
    In the state_dict: ``q``, ``energies`` of its columns, ``mean``, ``calls`` and ``pressed``; loading takes the rank
    of what is loaded. What a call has pooled so far is not in it.

    Args:
        name: of the site, for messages and the sketch.
        features: D, the width of X.
        fidelity: in (0, 1]. No step is encoded with a basis that measures below it.
        rank: columns of the basis; None adapts it.
        most: largest rank when it is adapted; None for ``features − 1``. See `laser_fx.memory.codecs.rank_within`.
        centre: take the mean off first.
        inner: how coefficients are stored; None stores them in the dtype of X.
        every: a basis with room to its fidelity is updated at each such call; in the others nothing is pooled.
        alarm: a call with a larger `renewal_rate` is warned of, once.

    Raises:
        OptionError: an argument out of its range.

    >>> basis, x = TrackedBasis("loop_0:mlp.down", 8, rank=2), torch.ones(6, 8)
    >>> codec, parts = basis.encode(x)
    >>> codec.name, parts[0].shape, basis.steps[0].reset
    ('lowrank', torch.Size([6, 2]), True)
    >>> basis.finish()
    >>> _ = basis.encode(2 * x)
    >>> basis.steps[0].reset
    False
    """

    q: Tensor
    energies: Tensor
    mean: Tensor | None
    calls: Tensor
    pressed: Tensor

    def __init__(
        self,
        name: str,
        features: int,
        *,
        fidelity: float = 0.999,
        rank: int | None = None,
        most: int | None = None,
        centre: bool = False,
        inner: Codec | None = None,
        every: int = 1,
        alarm: float = 0.5,
    ) -> None:
        super().__init__()
        _check("fidelity", fidelity, 0.0 < fidelity <= 1.0, "choose a number in (0, 1]")
        _check("rank", rank, rank is None or 1 <= rank <= features, f"choose 1 to {features}, or None")
        _check("most", most, most is None or 1 <= most <= features, f"choose 1 to {features}, or None")
        _check("every", every, every >= 1, "choose a whole number of at least 1")
        _check("alarm", alarm, 0.0 <= alarm <= 1.0, "choose a number in [0, 1]")
        self.name, self.features, self.fidelity, self.rank = name, features, fidelity, rank
        self.most = max(features - 1, 1) if most is None else most
        self.centre, self.inner, self.every, self.alarm = centre, inner, every, alarm
        self.register_buffer("q", torch.zeros(features, rank or 0))
        self.register_buffer("energies", torch.zeros(rank or 0))
        self.register_buffer("mean", torch.zeros(features) if centre else None)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("pressed", torch.ones((), dtype=torch.bool))
        self.steps: tuple[Step, ...] = ()
        """What each step of the call at hand did, or of the last one if none is."""
        self._begun: Basis | None = None
        self._fresh: Basis | None = None
        self._pools: dict[Basis, Pool] = {}
        self._pooling = False
        self._warned = False

    @property
    def reset_rate(self) -> float:
        """Share of the steps in `steps` that made a fresh basis; 0 before any."""
        return sum(step.reset for step in self.steps) / max(len(self.steps), 1)

    @property
    def renewal_rate(self) -> float:
        """Share of the steps in `steps` that the basis of the call did not serve: tracked or reset for themselves."""
        return sum(step.tracked or step.reset for step in self.steps) / max(len(self.steps), 1)

    @property
    def centred(self) -> bool:
        """Whether the fidelities in `steps` are centred ones."""
        return self.centre

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[LowRank | None, tuple[Tensor, ...]]:
        """One step.

        Args:
            x: (..., D), any float dtype, measured in float32.

        Returns:
            The codec, and the parts that it decodes: coefficients, basis and mean. Where no basis reaches the fidelity,
            None and X itself.

        Raises:
            NonFiniteError: the fidelity is no number: X holds a NaN or an infinity, or its squares overflow. What the
                call has pooled is dropped, and the basis is that of the call before.
        """
        if self._begun is None:
            self._begin()
        flat = subspace.flatten(x.detach())
        measured, tracked, reset = self._best(flat)
        exact = not self._suffices(measured)
        self.steps = (*self.steps, Step(measured.fidelity, measured.rank, tracked, reset, exact))
        if exact:
            return None, (x,)
        codec = LowRank(measured.basis.q, measured.basis.mean, self.inner)
        return codec, codec.store(measured.z, x.dtype)

    @torch.no_grad()
    def finish(self) -> None:
        """End a call: make the basis of the next one of what was pooled. Without a step since the last one, nothing."""
        if self._begun is None:
            return
        self._raise_alarm(knew_nothing=not self._begun.q.any())
        self.pressed = torch.tensor(self._is_pressed(), device=self.q.device)
        self.calls = self.calls + 1
        if self._pools:
            self.q, self.mean = self._better()
        self._forget()

    def drop(self) -> None:
        """End a call that failed: what it pooled is dropped, and the basis is that of the call before."""
        self._forget()

    def extra_repr(self) -> str:
        return f"{self.name}, features={self.features}, rank={self.q.shape[1]}, fidelity={self.fidelity}"

    def _begin(self) -> None:
        trusted = subspace.orthonormality_error(self.q) <= subspace.ORTHONORMALITY_LIMIT
        self._begun = Basis(self.q if trusted else torch.zeros_like(self.q), self.mean)
        self._pooling = bool(self.pressed) or int(self.calls) % self.every == 0
        self.steps = ()

    def _forget(self) -> None:
        self._begun = self._fresh = None
        self._pools = {}

    def _best(self, flat: Tensor) -> tuple[Measured, bool, bool]:
        """The first basis that reaches the fidelity, or the last one tried; whether one was tracked, and one reset."""
        assert self._begun is not None
        begun = self._measure(flat, self._begun)
        if self._suffices(begun):
            self._pool(flat, begun)
            return begun, False, False
        self._pooling = True
        if self._fresh is not None:
            fresh = self._measure(flat, self._fresh)
            if self._suffices(fresh):
                self._pool(flat, fresh)
                return fresh, False, False
        products = begun.products(flat)
        tracked = self._measure(flat, Basis(subspace.orthonormalise(products), begun.basis.mean))
        if self._suffices(tracked):
            self._pool(flat, begun, products)
            return tracked, True, False
        fresh = self._reset(flat)
        self._pool(flat, fresh)
        self._fresh = fresh.basis
        return fresh, True, True

    def _suffices(self, measured: Measured) -> bool:
        return measured.fidelity >= self.fidelity

    def _pool(self, flat: Tensor, measured: Measured, products: Tensor | None = None) -> None:
        """Add a step to what was seen with its basis."""
        if self._pooling:
            pool = self._pools.setdefault(measured.basis, Pool(measured.basis))
            pool.add(flat, measured, measured.products(flat) if products is None else products)

    def _measure(self, flat: Tensor, basis: Basis) -> Measured:
        z = LowRank(basis.q, basis.mean).coefficients(flat)
        total = subspace.energy(without_mean(flat, basis.mean))
        energies = z.square().sum(0)
        ratio = torch.where(total == 0, torch.ones_like(total), energies.sum() / total)
        # One transfer from the device.
        fidelity, rank = torch.stack([ratio, subspace.needed_rank(energies, total, self.fidelity)]).tolist()
        if not math.isfinite(fidelity):
            self._refuse()
        return Measured(basis, z, total, min(fidelity, 1.0), int(rank))

    def _refuse(self) -> None:
        step = len(self.steps)
        self._forget()
        raise NonFiniteError(
            f"the fidelity at step {step} is no number: the activation holds a NaN or an infinity, or overflows",
            where=f"{self.name}, step {step}",
            fix="look for what overflows before this step, or train with Options(memory='lean') to see where it begins",
        )

    def _reset(self, flat: Tensor) -> Measured:
        """A fresh basis of this activation alone, doubled until it reaches the fidelity."""
        mean = flat.mean(0) if self.centre else None
        centred = without_mean(flat, mean)
        width = self.rank or min(max(_FIRST_WIDTH, self.q.shape[1]), self.most)
        while True:
            sketch = subspace.sketch(self.features, width, self.name).to(flat.device)
            measured = self._measure(flat, Basis(subspace.range_finder(centred, sketch), mean))
            if measured.fidelity >= self.fidelity or self.rank is not None or width >= self.most:
                break
            width = min(2 * width, self.most)
        return self._trimmed(flat, measured) if self.rank is None else measured

    def _trimmed(self, flat: Tensor, measured: Measured) -> Measured:
        """The same by descending energy, without the columns that the fidelity does not need."""
        gram = measured.z.mT @ measured.z
        turns = torch.linalg.eigh(gram.double())[1].flip(1).float()
        energies = (measured.z @ turns).square().sum(0)
        rank = self._with_slack(subspace.needed_rank(energies, measured.total, self.fidelity))
        if measured.fidelity < self.fidelity or rank >= turns.shape[1]:
            return measured
        q = subspace.orthonormalise(measured.basis.q @ turns[:, :rank])
        return self._measure(flat, Basis(q, measured.basis.mean))

    def _with_slack(self, needed: Tensor) -> int:
        least = int(needed)
        return min(self.most, least + max(4, math.ceil(least / 8)))

    def _is_pressed(self) -> bool:
        """Whether this call came near the threshold, or below it."""
        used = max((1.0 - step.fidelity for step in self.steps), default=0.0)
        return used > _PRESSED * (1.0 - self.fidelity) or any(step.reset for step in self.steps)

    def _better(self) -> tuple[Tensor, Tensor | None]:
        """Q by descending energy of all that was pooled, and the mean of its rows."""
        assert self._begun is not None
        pools = list(self._pools.values())
        seen = torch.stack([pool.energy for pool in pools]).sum()
        factors = [subspace.nystrom_factor(pool.y, pool.c) for pool in pools]
        before = self._begun.q * (_MEMORY * seen * self.energies).sqrt()
        directions, energies = subspace.principal(torch.cat([*factors, before], dim=1))
        total = seen * (1.0 + _MEMORY * bool(self.energies.any()))
        aim = 1.0 - _AIM * (1.0 - self.fidelity)
        width = self.rank or self._with_slack(subspace.needed_rank(energies, total, aim))
        shares = energies[:width] / total.clamp(min=torch.finfo(total.dtype).tiny)
        self.energies = nn.functional.pad(shares, (0, width - shares.shape[0]))
        return self._filled(directions[:, :width], width), self._pooled_mean()

    def _filled(self, q: Tensor, width: int) -> Tensor:
        """The columns that are missing at random: the next update turns them to where energy is."""
        missing = width - q.shape[1]
        fresh = subspace.sketch(self.features, missing, f"{self.name}:{int(self.calls)}").to(q.device)
        return subspace.orthonormalise(torch.cat([q, fresh], dim=1))

    def _pooled_mean(self) -> Tensor | None:
        rows = sum(pool.rows for pool in self._pools.values())
        if self.mean is None or not rows:
            return self.mean
        return torch.stack([pool.sum for pool in self._pools.values()]).sum(0) / rows

    def _raise_alarm(self, *, knew_nothing: bool) -> None:
        if knew_nothing or self._warned or self.renewal_rate <= self.alarm:
            return
        self._warned = True
        tell(
            logging.WARNING,
            "slow_pooled_basis",
            "%s: %.0f %% of %d steps needed a basis of their own; the pooled one does not keep up",
            self.name,
            100 * self.renewal_rate,
            len(self.steps),
            site=self.name,
            renewal_rate=self.renewal_rate,
            reset_rate=self.reset_rate,
            steps=len(self.steps),
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        # New tensors: the rank may be another, and what autograd keeps must not be written into.
        for name, buffer in list(self._buffers.items()):
            loaded = state_dict.get(prefix + name)
            if buffer is not None and isinstance(loaded, Tensor):
                shape = loaded.shape if name in ("q", "energies") and loaded.ndim == buffer.ndim else buffer.shape
                self._buffers[name] = buffer.new_empty(shape)
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _check(name: str, value: object, holds: bool, fix: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value!r}", where=f"TrackedBasis.{name}", fix=fix)
