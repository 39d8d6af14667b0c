"""The search: families of settings, one number a family, and a test before anything is believed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, fx

from laser_fx.calibration import Calibration, Objective, SiteBasis, Trial
from laser_fx.calibrator.allocate import Costs, Pays, allocate
from laser_fx.calibrator.carry import compared, trajectory
from laser_fx.calibrator.checks import check_left
from laser_fx.calibrator.directions import OBJECTIVES, Directions, directions
from laser_fx.calibrator.examples import Example, Splits, Target, tensors_of
from laser_fx.calibrator.fast import fast
from laser_fx.dump import passed
from laser_fx.errors import InputError
from laser_fx.events import tell
from laser_fx.intervals import paired_lower, wilson
from laser_fx.loops import Site
from laser_fx.passes.collect_gradients import collect_gradients
from laser_fx.passes.collect_moments import collect_moments
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.folding_pays import folding
from laser_fx.passes.freeze import freeze
from laser_fx.passes.rank_schedule import Schedule
from laser_fx.program import Program

__all__ = ["BasisKind", "Family", "Left", "Search", "Setting"]

BasisKind = Literal["frozen", "per_step"]
Left = Collection[str] | Callable[[Site], bool]
"""Keys of sites that stay exact, or what says so of a site."""

_HALVINGS = 5
_STEP_UP = 1.12
"""What a setting that does not pass is made more expensive by."""
_SENSITIVE_EXAMPLES = 96
_SENSITIVE_ROWS = 8
"""Rows of a call that gradients are taken of: they keep every activation of every step."""
_SEED = 2604


@dataclass(frozen=True)
class Family:
    """Settings that differ by their operations alone.

    Args:
        objectives: what each site may be computed through; the cheapest for the answer is taken.
        basis: one for all steps of a site, or one for each.
        schedule: ranks by outermost step.
    """

    objectives: tuple[Objective, ...]
    basis: BasisKind = "frozen"
    schedule: Schedule | None = None

    def __str__(self) -> str:
        name: str = self.objectives[0] if len(self.objectives) == 1 else "mixed"
        name += ", per step" if self.basis == "per_step" else ""
        return name + (f", {self.schedule}" if self.schedule else "")


@dataclass(frozen=True, eq=False)
class Setting:
    """Bases, and the share of the exact operations that they take."""

    family: Family
    bases: Mapping[str, SiteBasis]
    flops_share: float


class Search:
    """Makes settings of a program and measures them.

    Args:
        program: exact, for evaluation.
        target: what counts as kept.
        splits: examples.
        left: sites that stay exact.
        paying: whether a site has only bases with which it is faster, by the cost model, at the sizes of the program.
    """

    def __init__(
        self, program: Program, target: Target, splits: Splits, left: Left = (), *, paying: bool = False
    ) -> None:
        self.program, self.target, self.splits, self.paying = program, target, splits, paying
        self.placed = find_sites(program.rolled, program.capture.states, of_parameters=True)
        self.sites = {p.site.key: p.site for p in self.placed}
        if not callable(left):
            check_left(left, self.sites)
        self.left = {site.key for site in self.sites.values() if (left(site) if callable(left) else site.key in left)}
        self.trials: list[Trial] = []
        self._exact: dict[int, Tensor] = {}
        self._directions: dict[tuple[str, Objective, BasisKind], Directions] = {}

    def setting(self, family: Family, share: float) -> Setting:
        """The setting of a family that takes at most this share of the exact operations, or as few as can be."""
        costs = Costs(self.sites.values(), self.program.nest, family.schedule)
        choices = {
            key: [self._direction(key, objective, family.basis) for objective in family.objectives]
            for key in self.sites
            if key not in self.left
        }
        bases = allocate(choices, costs, share, self.left, _pays(family.basis) if self.paying else None)
        return Setting(family, bases, costs.share(bases))

    def kept(self, setting: Setting, batches: Sequence[Example]) -> Tensor:
        """Which examples are predicted as wanted: (examples,) bool."""
        program = self.frozen(setting)
        program = replace(program, graph_module=fast(program.graph_module))
        return torch.cat([_same(self.predict(program, batch), self.wanted(batch)) for batch in batches])

    def hopeless(self, basis: BasisKind) -> bool:
        """Whether no basis of any rank would make any site faster."""
        pays = _pays(basis)
        sites = [site for key, site in self.sites.items() if key not in self.left]
        return not any(pays(site, rank) for site in sites for rank in range(1, min(site.features, site.outputs)))

    def exact(self, batches: Sequence[Example]) -> Tensor:
        """The same of the exact model."""
        return torch.cat([_same(self.exact_answers(batch), self.wanted(batch)) for batch in batches])

    def exact_answers(self, batch: Example) -> Tensor:
        """What the exact model predicts."""
        if id(batch) not in self._exact:
            self._exact[id(batch)] = self.predict(self._fast_program, batch)
        return self._exact[id(batch)]

    def wanted(self, batch: Example) -> Tensor:
        """What should be predicted."""
        answers = batch[1]
        return self.exact_answers(batch) if self.target == "agreement" or answers is None else answers

    def frozen(self, setting: Setting) -> Program:
        """The program through the setting's bases."""
        return freeze(self.program, _calibration(setting, self.target))

    def cheapest(self, family: Family, tolerance: float) -> Setting | None:
        """The cheapest setting of a family that loses no more on the searched examples; None where none does."""
        wanted = float(self.exact(self.splits.searched).double().mean()) - tolerance
        low, high, best = self.setting(family, 0.0).flops_share, 1.0, None
        for _ in range(_HALVINGS):
            setting = self.setting(family, (low + high) / 2)
            if not setting.bases:
                break
            if self._try(setting, self.splits.searched, "searched") >= wanted:
                best, high = setting, min(setting.flops_share, (low + high) / 2)
            else:
                low = (low + high) / 2
        return best

    def passed(self, setting: Setting | None, tolerance: float) -> Setting | None:
        """The setting, made more expensive until examples that it was not searched on show that it loses no more."""
        while setting is not None and setting.bases:
            kept, exact = self.kept(setting, self.splits.selected), self.exact(self.splits.selected)
            self._note(setting, float(kept.double().mean()), "selected")
            lost, gained = int((exact & ~kept).sum()), int((kept & ~exact).sum())
            if paired_lower(lost, gained, len(kept)) >= -tolerance:
                return setting
            dearer = self.setting(setting.family, _STEP_UP * setting.flops_share)
            setting = dearer if dearer.flops_share > setting.flops_share else None
        return None

    def report(self, setting: Setting | None) -> Calibration:
        """The setting, measured on what was held out; without a basis where it is None."""
        held_out = self.splits.held_out
        chosen = setting or Setting(Family(OBJECTIVES[:1]), {}, 1.0)
        kept = float(self.kept(chosen, held_out).double().mean())
        count = len(self.exact(held_out))
        inputs = tensors_of(held_out[0][0])
        states = [trajectory(p.graph_module, p.arguments(p.graph_module, inputs)) for p in self._both(chosen)]
        return replace(
            _calibration(chosen, self.target),
            flops_share=chosen.flops_share,
            kept=kept,
            exact=float(self.exact(held_out).double().mean()),
            interval=wilson(kept, count),
            held_out=count,
            trials=tuple(self.trials),
            carry=compared(*states),
        )

    def predict(self, program: Program, batch: Example) -> Tensor:
        """The classes of the first output that is floating, -1 where it holds NaN."""
        with torch.no_grad():
            values = program.run_graph(program.graph_module, tensors_of(batch[0]))
        logits = self._logits(values)
        return logits.argmax(dim=-1).masked_fill_(logits.isnan().any(dim=-1), -1)

    def _both(self, setting: Setting) -> tuple[Program, Program]:
        return self.frozen(setting), self.program

    @staticmethod
    def _logits(values: Sequence[Any]) -> Tensor:
        logits = next((v for v in values if isinstance(v, Tensor) and v.is_floating_point() and v.ndim > 1), None)
        if logits is None:
            raise InputError(
                "the model has no floating output (batch, …, classes) to predict from",
                where="calibrate(model)",
                fix="wrap the model so that it returns its logits first",
            )
        return logits

    def _try(self, setting: Setting, batches: Sequence[Example], examples: str) -> float:
        kept = float(self.kept(setting, batches).double().mean())
        self._note(setting, kept, examples)
        return kept

    def _note(self, setting: Setting, kept: float, examples: str) -> None:
        self.trials.append(Trial(str(setting.family), None, setting.flops_share, kept, examples))
        family, share = str(setting.family), setting.flops_share
        sentence = "calibrate: %s, %.3f of the FLOPs, %.2f %% kept of the %s examples"
        values = (family, share, 100 * kept, examples)
        fields = {"family": family, "flops_share": share, "kept": kept, "examples": examples}
        tell(logging.INFO, "calibration_trial", sentence, *values, **fields)

    def _direction(self, key: str, objective: Objective, basis: BasisKind) -> Directions:
        known = self._directions
        if (key, objective, basis) not in known:
            moment = self._moments[key]
            trips = self.program.nest.trips_around(self.sites[key].loop) if basis == "per_step" else ()
            whole = moment if trips else moment.sum(0, keepdim=True)
            weight = self._weights[self.sites[key].weight]
            found = directions(whole.cpu(), weight.cpu(), self._sensitivities[key].cpu(), objective, trips, key)
            known[key, objective, basis] = found
        return known[key, objective, basis]

    @cached_property
    def _fast_program(self) -> Program:
        return replace(self.program, graph_module=fast(self.program.rolled))

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        weights = self.program.weights
        return {target: weights[name] for name, target in self.program.capture.states.items()}

    @cached_property
    def _moments(self) -> dict[str, Tensor]:
        stage, count = "measuring the activations", len(self.sites)
        tell(logging.INFO, "calibrating", "calibrate: %s of %d sites", stage, count, stage=stage, sites=count)
        graph, moments = collect_moments(self.program.rolled, self.placed)
        passed(self.program.captured, "collect_moments", graph, type(self.program.model).__name__)
        with torch.no_grad():
            for inputs, _ in self.splits.searched:
                self.program.run_graph(graph, tensors_of(inputs))
        return {key: found.by_step for key, found in moments.items()}

    @cached_property
    def _sensitivities(self) -> dict[str, Tensor]:
        stage, count = "measuring what the answer depends on", len(self.sites)
        tell(logging.INFO, "calibrating", "calibrate: %s", stage, stage=stage, sites=count)
        graph, found = collect_gradients(self.program.rolled, self.placed)
        passed(self.program.captured, "collect_gradients", graph, type(self.program.model).__name__)
        generator = torch.Generator().manual_seed(_SEED)
        seen = 0
        for batch in self.splits.searched:
            if seen >= _SENSITIVE_EXAMPLES:
                break
            seen += self._differentiate(graph, batch, generator)
        return {key: sensitivity.total / seen for key, sensitivity in found.items()}

    def _differentiate(self, graph: fx.GraphModule, batch: Example, generator: torch.Generator) -> int:
        """Gradients of a random reading of a few answers; returns how many."""
        size = len(self.exact_answers(batch))
        rows = min(size, _SENSITIVE_ROWS) if self.program.capture.dynamic else size
        tensors = [t[:rows] if t.ndim and t.shape[0] == size else t for t in tensors_of(batch[0])]
        arguments = [value.detach() for value in self.program.arguments(graph, tensors)]
        with torch.enable_grad():
            logits = self._logits(graph(*arguments))
            reading = torch.randn(logits.shape, generator=generator).to(logits)
            if logits.requires_grad:
                (logits * reading).sum().backward()
        return rows


def _pays(basis: BasisKind) -> Pays:
    return lambda site, rank: folding(site, rank, basis=basis).pays


def _calibration(setting: Setting, target: str) -> Calibration:
    return Calibration(
        dict(setting.bases), target, setting.flops_share, 1.0, 1.0, (0.0, 1.0), 0, (), setting.family.schedule
    )


def _same(found: Tensor, wanted: Tensor) -> Tensor:
    return (found == wanted).reshape(len(found), -1).all(dim=1)
