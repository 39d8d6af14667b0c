"""Gives a program's inference graph the bases of a calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laser_fx import subspace
from laser_fx.calibration import Calibration
from laser_fx.errors import InputError
from laser_fx.loops import Site
from laser_fx.passes.find_sites import PlacedSite, find_sites
from laser_fx.passes.freeze_sites import basis_name, freeze_sites, probes_name
from laser_fx.passes.measure_frozen import lost_probes
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.program import Program

__all__ = ["freeze"]


def freeze(program: Program, calibration: Calibration) -> Program:
    """The program with every site that the calibration names computed through its basis, and measured if asked for.

    Raises:
        InputError: a basis does not fit its site, the calibration being another model's, or is not orthonormal.
    """
    found = find_sites(program.rolled, program.capture.states)
    ranked = [replace(p, site=_ranked(p.site, calibration)) for p in found]
    placed = [p for p in ranked if p.site.rank is not None]
    _refuse_strangers(calibration, {p.site.key for p in found})
    if not placed:
        return program
    holders = {target: name for name, target in program.capture.states.items()}
    measure = program.options.measure
    frozen = freeze_sites(program.rolled, placed, calibration.bases, holders, measure=measure)
    return replace(
        program,
        graph_module=frozen.graph_module,
        nest=with_bodies(program.nest, frozen.graph_module),
        sites=tuple(p.site for p in ranked),
        constants=_constants(program, frozen.constants, placed, calibration),
        record_names=frozen.records,
        notes=(*program.notes, *frozen.notes),
    )


def _ranked(site: Site, calibration: Calibration) -> Site:
    basis = calibration.bases.get(site.key)
    if basis is None:
        return site
    rows = site.features if basis.objective == "activation" else site.outputs
    if basis.basis.shape[0] != rows:
        raise InputError(
            f"the basis has {basis.basis.shape[0]} rows, the site's {basis.objective} has {rows} columns",
            where=f"site {site.key}",
            fix="calibrate this model",
        )
    if not float(subspace.orthonormality_error(basis.basis)) <= subspace.ORTHONORMALITY_LIMIT:
        raise InputError(
            "the columns of the basis are not orthonormal: what it keeps could not be measured",
            where=f"site {site.key}",
            fix="calibrate again, or pass it through torch.linalg.qr",
        )
    return replace(site, rank=basis.rank)


def _refuse_strangers(calibration: Calibration, known: set[str]) -> None:
    missing = sorted(calibration.bases.keys() - known)
    if missing:
        raise InputError(
            f"the calibration has a basis for {missing[0]}, which this program has no site for",
            where="calibration",
            fix="calibrate the model as it is called now; sites: " + (", ".join(sorted(known)) or "none"),
        )


def _constants(
    program: Program, wanted: Sequence[str], placed: Sequence[PlacedSite], calibration: Calibration
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site in (p.site for p in placed):
        basis = calibration.bases[site.key].basis.to(_device(program, site))
        found[basis_name(site)] = basis
        if probes_name(site) in wanted:
            found[probes_name(site)] = lost_probes(basis, site.key)
    return found


def _device(program: Program, site: Site) -> torch.device:
    return next(t.device for name, t in program.weights.items() if program.capture.states.get(name) == site.weight)
