"""The cheapest setting that can be believed, among the families that were asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from laser_fx.calibration import Calibration, Objective
from laser_fx.calibrator.checks import check_answers, check_asked, check_batches, check_sizes
from laser_fx.calibrator.directions import OBJECTIVES
from laser_fx.calibrator.examples import Example, Splits, Target, batches_of, check_examples, tensors_of
from laser_fx.calibrator.schedules import RankSchedules, walk
from laser_fx.calibrator.search import BasisKind, Family, Left, Search, Setting
from laser_fx.compiled import CompiledModel
from laser_fx.errors import InputError
from laser_fx.events import tell
from laser_fx.options import Options, Sites
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.rank_schedule import Schedule
from laser_fx.program import Program
from laser_fx.reporting.instruments.modes import evaluating

__all__ = ["calibrate"]

_NOTHING_PAYS = (
    "calibrate: at these sizes no basis makes any of %d sites faster, so that all stay exact; "
    "sites='all' asks for fewer operations alone"
)


def calibrate(
    model: nn.Module,
    data: Iterable[Any],
    target: Target,
    tolerance: float,
    answers: Iterable[Tensor] | None,
    *,
    basis: BasisKind = "frozen",
    objectives: Sequence[Objective] = OBJECTIVES,
    rank_schedules: RankSchedules = (),
    exact_sites: Left = (),
    sites: Sites = "paying",
) -> Calibration:
    """See `laser_fx.compiler.calibrate`."""
    check_asked(basis, objectives, rank_schedules, sites)
    batches = batches_of(data, answers, target, tolerance)
    check_batches(batches)
    with evaluating(model):
        program = _program(model, next(filter(_has_rows, batches), batches[0]))
        check_sizes(program, batches)
        search = Search(program, target, Splits.of(batches), exact_sites, paying=sites == "paying")
        for number, batch in enumerate(batches):
            check_answers(batch[1] if target == "accuracy" else None, search.exact_answers(batch), number)
        selected = search.splits.selected
        check_examples(len(search.exact(selected)), [search.wanted(batch) for batch in batches], tolerance)
        if search.paying and search.hopeless("frozen"):
            tell(logging.WARNING, "nothing_pays", _NOTHING_PAYS, len(search.sites), sites=len(search.sites))
        return search.report(_best(search, tolerance, basis, objectives, rank_schedules))


def _program(model: nn.Module, batch: Example) -> Program:
    compiled = CompiledModel(model, Options.exact(measure=False))
    with torch.no_grad():
        compiled(*batch[0])
    program = compiled.program
    if not find_sites(program.rolled, program.capture.states, of_parameters=True):
        raise InputError(
            "the model has no site: no linear whose matrix is a parameter is repeated in a loop",
            where="calibrate(model)",
            fix="nothing to calibrate",
        )
    return program


def _has_rows(batch: Example) -> bool:
    """Whether it has more than one: a trace of one row holds for no other number."""
    return all(tensor.ndim == 0 or tensor.shape[0] > 1 for tensor in tensors_of(batch[0]))


def _best(
    search: Search,
    tolerance: float,
    basis: BasisKind,
    objectives: Sequence[Objective],
    schedules: RankSchedules,
) -> Setting | None:
    """The cheapest setting that passes, among the best of every family; None where exact is all that passes."""
    found = [search.cheapest(family, tolerance) for family in _families(basis, objectives)]
    ranked = sorted((setting for setting in found if setting), key=lambda setting: setting.flops_share)
    if ranked and schedules:
        others = _scheduled(search, tolerance, ranked[0].family, schedules)
        ranked = sorted((*ranked, *others), key=lambda setting: setting.flops_share)
    best: Setting | None = None
    for setting in ranked:
        if best is None or setting.flops_share < best.flops_share:
            passed = search.passed(setting, tolerance)
            if passed is not None and (best is None or passed.flops_share < best.flops_share):
                best = passed
    return best


def _scheduled(search: Search, tolerance: float, family: Family, schedules: RankSchedules) -> list[Setting]:
    """The cheapest setting of every schedule that has one."""

    def cheapest(schedule: Schedule) -> Setting | None:
        return search.cheapest(replace(family, schedule=tuple(schedule)), tolerance)

    if isinstance(schedules, str):
        return list(walk(cheapest, max(loop.trip_count for loop in search.program.nest.loops)))
    return [setting for setting in map(cheapest, schedules) if setting is not None]


def _families(basis: BasisKind, objectives: Sequence[Objective]) -> Iterator[Family]:
    kinds: tuple[BasisKind, ...] = ("frozen",) if basis == "frozen" else ("frozen", "per_step")
    for kind in kinds:
        for objective in objectives:
            yield Family((objective,), kind)
        if {"activation", "output"} <= set(objectives):
            yield Family(("activation", "output"), kind)
