"""Gives a program's inference graph the bases of a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from laser_fx import subspace
from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.dump import passed
from laser_fx.errors import InputError
from laser_fx.loops import LoopNest, Site
from laser_fx.marks import mark_loops
from laser_fx.passes.find_sites import PlacedSite, find_sites
from laser_fx.passes.freeze_sites import basis_name, dual_name, freeze_sites, probes_name
from laser_fx.passes.measure_frozen import lost_probes
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.passes.rank_schedule import Schedule, scheduled, starts_of
from laser_fx.passes.split_loops import SplitLoops, split_loops
from laser_fx.program import Program

__all__ = ["freeze"]

_DUAL_LIMIT = 1e-2
"""Of two bases that weigh directions over some five decades, float32 leaves that much."""


@dataclass(frozen=True)
class _Fitted:
    """Sites, and the bases of those that have one, in a graph whose outermost loops may be split."""

    split: SplitLoops
    placed: tuple[PlacedSite, ...]
    bases: Mapping[str, SiteBasis]


def freeze(program: Program, calibration: Calibration) -> Program:
    """The program with every site that the calibration names computed through its basis, and measured if asked for.

    Where steps of an outermost loop have ranks of their own, by ``options.rank_schedule`` or else the calibration's,
    the loop is split into pieces that run one after the other.

    Raises:
        InputError: a basis does not fit its site, the calibration being another model's, or is not orthonormal.
        PassError: a schedule asks for a loop to be split that cannot be.
    """
    schedule = program.options.rank_schedule or calibration.rank_schedule
    fitted = _fitted(program, calibration, schedule)
    placed = [p for p in fitted.placed if p.site.rank is not None]
    if not placed:
        return program
    holders = {target: name for name, target in program.capture.states.items()}
    measure = program.options.measure
    frozen = freeze_sites(fitted.split.graph_module, placed, fitted.bases, holders, measure=measure)
    for made_by, made in (("split_loops", fitted.split), ("freeze_sites", frozen)):
        passed(program.captured, made_by, made.graph_module, type(program.model).__name__, made.notes)
    return replace(
        program,
        graph_module=frozen.graph_module,
        nest=with_bodies(fitted.split.nest, frozen.graph_module),
        unsplit=program.nest if schedule else None,
        sites=tuple(p.site for p in fitted.placed),
        constants=_constants(program, frozen.constants, placed, fitted.bases),
        record_names=frozen.records,
        notes=(*program.notes, *fitted.split.notes, *frozen.notes),
    )


def _fitted(program: Program, calibration: Calibration, schedule: Schedule | None) -> _Fitted:
    found = find_sites(program.rolled, program.capture.states, of_parameters=True)
    _refuse_strangers(calibration, {p.site.key for p in found})
    bases = {p.site.key: _checked(p.site, calibration.bases.get(p.site.key), program.nest) for p in found}
    held = {p.site.loop for p in found if bases[p.site.key] is not None}
    starts = starts_of(program.nest, schedule, held)
    split = split_loops(program.rolled, program.nest, starts)
    mark_loops(split.graph_module, "split_loops")
    own: dict[str, SiteBasis] = {}
    placed = []
    for p in find_sites(split.graph_module, program.capture.states, of_parameters=True):
        piece = split.pieces[p.site.loop]
        basis = bases[replace(p.site, loop=piece.loop).key]
        here = scheduled(basis, schedule, piece, program.nest.trips_around(piece.loop)[0])
        if here is not None:
            own[p.site.key] = here
        rank, objective = (here.rank, here.objective) if here else (None, None)
        placed.append(replace(p, site=replace(p.site, rank=rank, objective=objective)))
    return _Fitted(split, tuple(placed), own)


def _checked(site: Site, basis: SiteBasis | None, nest: LoopNest) -> SiteBasis | None:
    """The basis at the trips that this program runs."""
    if basis is None:
        return None
    rows = site.features if basis.objective == "activation" else site.outputs
    if basis.basis.shape[-2] != rows:
        raise InputError(
            f"the basis has {basis.basis.shape[-2]} rows, the site's {basis.objective} has {rows} columns",
            where=f"site {site.key}",
            fix="calibrate this model",
        )
    if not basis.error() <= (subspace.ORTHONORMALITY_LIMIT if basis.dual is None else _DUAL_LIMIT):
        raise InputError(
            "the columns of the basis are not orthonormal: what it keeps could not be measured",
            where=f"site {site.key}",
            fix="calibrate again, or pass it through torch.linalg.qr",
        )
    try:
        return basis.at_trips(nest.trips_around(site.loop))
    except ValueError as error:
        fix = "calibrate the model as it is called now: only the outermost loop may run another number of steps"
        raise InputError(f"its bases are of other steps: {error}", where=f"site {site.key}", fix=fix) from error


def _refuse_strangers(calibration: Calibration, known: set[str]) -> None:
    missing = sorted(calibration.bases.keys() - known)
    if missing:
        raise InputError(
            f"the calibration has a basis for {missing[0]}, which this program has no site for",
            where="calibration",
            fix="calibrate the model as it is called now; sites: " + (", ".join(sorted(known)) or "none"),
        )


def _constants(
    program: Program, wanted: Sequence[str], placed: Sequence[PlacedSite], bases: Mapping[str, SiteBasis]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site in (p.site for p in placed):
        basis, device = bases[site.key], _device(program, site)
        found[basis_name(site)] = basis.basis.to(device)
        if basis.dual is not None:
            found[dual_name(site)] = basis.dual.to(device)
        if probes_name(site) in wanted:
            found[probes_name(site)] = lost_probes(basis.basis, site.key, basis.dual, basis.probes).to(device)
    return found


def _device(program: Program, site: Site) -> torch.device:
    return next(t.device for name, t in program.weights.items() if program.capture.states.get(name) == site.weight)
