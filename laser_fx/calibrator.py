"""Searches the ranks at which a model in low rank still answers as it should, end to end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from laser_fx.calibration import Calibration, Objective, SiteBasis, Trial, share_of
from laser_fx.compiled import CompiledModel
from laser_fx.errors import InputError, OptionError
from laser_fx.intervals import wilson
from laser_fx.loops import Site
from laser_fx.options import Options
from laser_fx.passes.collect_moments import Moments, collect_moments
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.freeze import freeze
from laser_fx.program import Program

__all__ = ["Target", "calibrate"]

Target = Literal["agreement", "accuracy"]
Example = tuple[tuple[Any, ...], Tensor | None]
"""Positional inputs of one call, and the right answers."""

_HALVINGS = 7
_LOSSES = 1e-7, 0.3
"""Shares of energy that a basis may drop: the least and the most that is tried."""


@dataclass(frozen=True)
class _Direction:
    """What a site can be computed through: orthonormal columns by descending energy, and these energies."""

    columns: Tensor
    energies: Tensor


class _Search:
    """See `calibrate`."""

    def __init__(self, program: Program, target: Target, batches: Sequence[Example]) -> None:
        self.program, self.target = program, target
        self.fit, self.held_out = batches[: (len(batches) + 1) // 2], batches[(len(batches) + 1) // 2 :]
        self.placed = find_sites(program.rolled, program.capture.states)
        self.sites = {p.site.key: p.site for p in self.placed}
        self.directions = self._directions()
        self.trials: list[Trial] = []
        self.answers = {id(batch): self._predict(program, batch) for batch in batches}

    def run(self, tolerance: float) -> Calibration:
        """The cheapest setting that keeps enough, measured on what was held out."""
        wanted = self._exact(self.fit) - tolerance
        found = [self._cheapest(objective, wanted) for objective in ("activation", "output")]
        best = min(found, key=self._flops_share)
        best = self._mixed(best, found, wanted)
        kept, count = self._kept(best, self.held_out), self._count(self.held_out)
        return Calibration(
            bases=best,
            target=self.target,
            flops_share=self._flops_share(best),
            kept=kept,
            exact=self._exact(self.held_out),
            interval=wilson(kept, count),
            held_out=count,
            trials=tuple(self.trials),
        )

    def _cheapest(self, objective: Objective, wanted: float) -> dict[str, SiteBasis]:
        """The largest loss of energy, the same at every site, that keeps enough; no basis where none does."""
        low, high = (math.log(loss) for loss in _LOSSES)
        best: dict[str, SiteBasis] = {}
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            bases = self._bases(objective, 1.0 - math.exp(middle))
            if self._try(bases, objective, 1.0 - math.exp(middle)) >= wanted:
                best, low = bases, middle
            else:
                high = middle
        return best

    def _mixed(
        self, best: dict[str, SiteBasis], others: Sequence[dict[str, SiteBasis]], wanted: float
    ) -> dict[str, SiteBasis]:
        """Site by site, another setting's basis where it is cheaper and keeps enough."""
        for key in self.sites:
            for other in others:
                trial = {**best, **({key: other[key]} if key in other else {})}
                if self._flops_share(trial) < self._flops_share(best) and self._try(trial, "mixed", None) >= wanted:
                    best = trial
        return best

    def _bases(self, objective: Objective, energy: float) -> dict[str, SiteBasis]:
        """A basis for every site that it makes cheaper."""
        found: dict[str, SiteBasis] = {}
        for key, site in self.sites.items():
            direction = self.directions[key, objective]
            rank = share_of(direction.energies, energy)
            if rank * (site.features + site.outputs) < site.features * site.outputs:
                found[key] = SiteBasis(objective, direction.columns[:, :rank].contiguous())
        return found

    def _directions(self) -> dict[tuple[str, Objective], _Direction]:
        graph, moments = collect_moments(self.program.rolled, self.placed)
        with torch.no_grad():
            for inputs, _ in self.fit:
                self.program.run_graph(graph, _tensors(inputs))
        weights = {target: self.program.weights[name] for name, target in self.program.capture.states.items()}
        return {
            (key, objective): _principal(_moment(moments[key], weights[site.weight], objective))
            for key, site in self.sites.items()
            for objective in ("activation", "output")
        }

    def _try(self, bases: Mapping[str, SiteBasis], objective: str, energy: float | None) -> float:
        kept = self._kept(bases, self.fit)
        self.trials.append(Trial(objective, energy, self._flops_share(bases), kept))
        return kept

    def _kept(self, bases: Mapping[str, SiteBasis], batches: Sequence[Example]) -> float:
        """Share of the examples whose whole prediction is right, or is the exact model's."""
        program = freeze(self.program, Calibration(dict(bases), self.target, 1.0, 1.0, 1.0, (0.0, 1.0), 0, ()))
        rows = [self._same(self._predict(program, batch), self._wanted(batch)) for batch in batches]
        return float(torch.cat(rows).double().mean())

    def _exact(self, batches: Sequence[Example]) -> float:
        rows = [self._same(self.answers[id(batch)], self._wanted(batch)) for batch in batches]
        return float(torch.cat(rows).double().mean())

    def _wanted(self, batch: Example) -> Tensor:
        answers = batch[1]
        return self.answers[id(batch)] if self.target == "agreement" or answers is None else answers

    @staticmethod
    def _same(found: Tensor, wanted: Tensor) -> Tensor:
        return (found == wanted).reshape(len(found), -1).all(dim=1)

    def _count(self, batches: Sequence[Example]) -> int:
        return sum(len(self.answers[id(batch)]) for batch in batches)

    def _predict(self, program: Program, batch: Example) -> Tensor:
        """The classes of the first output that is floating."""
        with torch.no_grad():
            values = program.run_graph(program.graph_module, _tensors(batch[0]))
        logits = next((v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 1), None)
        if logits is None:
            raise InputError(
                "the model has no floating output (batch, …, classes) to predict from",
                where="calibrate(model)",
                fix="wrap the model so that it returns its logits first",
            )
        return logits.argmax(dim=-1)

    def _flops_share(self, bases: Mapping[str, SiteBasis]) -> float:
        exact = sum(_flops(site, None) for site in self.sites.values())
        return sum(_flops(site, bases.get(key)) for key, site in self.sites.items()) / exact if exact else 1.0


def calibrate(
    model: nn.Module, data: Iterable[Any], target: Target, tolerance: float, answers: Iterable[Tensor] | None
) -> Calibration:
    """See `laser_fx.compiler.calibrate`."""
    if target not in ("agreement", "accuracy"):
        raise OptionError(f"target is {target!r}", where="calibrate(target)", fix="choose 'agreement' or 'accuracy'")
    if not 0.0 <= tolerance < 1.0:
        raise OptionError(f"tolerance is {tolerance!r}", where="calibrate(tolerance)", fix="choose a number in [0, 1)")
    batches = _batches(data, answers, target)
    was_training = model.training
    model.eval()
    try:
        compiled = CompiledModel(model, Options.exact(measure=False))
        with torch.no_grad():
            compiled(*batches[0][0])
        if not compiled.sites:
            raise InputError(
                "the model has no site: no linear is repeated in a loop",
                where="calibrate(model)",
                fix="nothing to calibrate",
            )
        return _Search(compiled.program, target, batches).run(tolerance)
    finally:
        model.train(was_training)


def _batches(data: Iterable[Any], answers: Iterable[Tensor] | None, target: Target) -> list[Example]:
    inputs = [tuple(entry) if isinstance(entry, (tuple, list)) else (entry,) for entry in data]
    if len(inputs) < 2:
        raise InputError(
            f"there are {len(inputs)} batches",
            where="calibrate(data)",
            fix="give two or more: every second half is held out",
        )
    if target == "accuracy" and answers is None:
        raise InputError("there are no answers", where="calibrate(answers)", fix="give one tensor for each batch")
    right = list(answers) if answers is not None else [None] * len(inputs)
    if len(right) != len(inputs):
        raise InputError(
            f"there are {len(inputs)} batches and {len(right)} answers", where="calibrate(answers)", fix="give as many"
        )
    return list(zip(inputs, right, strict=True))


def _tensors(inputs: tuple[Any, ...]) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _moment(moments: Moments, weight: Tensor, objective: Objective) -> Tensor:
    """``XᵀX``, or ``YᵀY`` of ``Y = XWᵀ``."""
    if objective == "activation":
        return moments.total
    wide = weight.detach().double()
    return wide @ moments.total @ wide.mT


def _principal(moment: Tensor) -> _Direction:
    energies, columns = torch.linalg.eigh(moment)
    return _Direction(columns.flip(1).float(), energies.clamp(min=0).flip(0))


def _flops(site: Site, basis: SiteBasis | None) -> int:
    width = site.features * site.outputs if basis is None else basis.rank * (site.features + site.outputs)
    return 2 * site.rows * site.steps * width
