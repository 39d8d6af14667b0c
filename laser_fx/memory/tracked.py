"""Low rank as a codec of a plan: bases that are kept from one call of the model to the next."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from laser_fx.loops import Step
from laser_fx.memory.bases import TrackedBasis
from laser_fx.memory.codecs import Codec, LowRank
from laser_fx.memory.joint import Form

__all__ = ["Tracked"]


class Tracked(nn.Module):
    """A value's bases: one for all steps of a call, or one for each.

    As a codec it says what a value costs in the bases at hand. What a step really keeps is for `store` to decide: where
    no basis reaches the fidelity, the value itself.

    Args:
        site: name of the linear that reads the value.
        bases: one, or as many as there are steps.
        times: how often the value is kept in one call.
    """

    def __init__(self, site: str, bases: Sequence[TrackedBasis], times: int) -> None:
        super().__init__()
        self.site, self.times = site, times
        self.bases = nn.ModuleList(bases)

    @property
    def name(self) -> str:
        """What a plan calls it."""
        inner = self._first.inner
        return "lowrank" if inner is None else f"lowrank_{inner.name}"

    @property
    def cost_key(self) -> tuple[object, ...]:
        """See `laser_fx.memory.codecs.Codec`."""
        return self.name, self._first.features, self.rank

    @property
    def rank(self) -> int:
        """Columns of the widest basis at hand; 0 before the first call."""
        return max(basis.q.shape[1] for basis in self._all)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What each step of the latest call measured and did."""
        return tuple(step for basis in self._all for step in basis.steps)

    @property
    def _all(self) -> list[TrackedBasis]:
        return list(self.bases)  # type: ignore[arg-type]

    @property
    def _first(self) -> TrackedBasis:
        return self._all[0]

    def store(self, value: Tensor, step: int) -> tuple[Codec | None, tuple[Tensor, ...]]:
        """Keep a value; see `laser_fx.memory.bases.TrackedBasis.encode`.

        Args:
            value: (..., D).
            step: which one of the call this is.
        """
        return self._all[step % len(self.bases)].encode(value)

    def finish(self) -> None:
        """End a call: make the bases of the next one."""
        for basis in self._all:
            basis.finish()

    def drop(self) -> None:
        """End a call that failed."""
        for basis in self._all:
            basis.drop()

    def encode(self, value: Tensor) -> tuple[Tensor, ...]:
        """Coefficients of a value in a basis of this size."""
        return self._like(value.device).encode(value)

    def decode(self, parts: Sequence[Tensor], form: Form) -> Tensor:
        """The value again."""
        return self._like(form.device).decode(parts, form)

    def bytes(self, form: Form) -> int:
        """Coefficients of one step, and its share of the bases."""
        shared = sum(basis.q.nbytes for basis in self._all) // self.times
        return self._like(torch.device("meta")).bytes(form) + shared

    def _like(self, device: torch.device) -> LowRank:
        return LowRank(torch.zeros(self._first.features, self.rank, device=device), None, self._first.inner)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other
