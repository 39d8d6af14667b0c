"""Gives a program's inference graph the bases of a calibration."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.errors import InputError
from laser_fx.loops import Site
from laser_fx.passes.find_sites import find_sites
from laser_fx.passes.freeze_sites import basis_name, freeze_sites
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.program import Program

__all__ = ["freeze"]


def freeze(program: Program, calibration: Calibration) -> Program:
    """The program with every site that the calibration names computed through its basis.

    Raises:
        InputError: a basis does not fit its site: the calibration is another model's.
    """
    found = find_sites(program.rolled, program.capture.states)
    ranked = [replace(p, site=_ranked(p.site, calibration)) for p in found]
    placed = [p for p in ranked if p.site.rank is not None]
    _refuse_strangers(calibration, {p.site.key for p in found})
    if not placed:
        return program
    holders = {target: name for name, target in program.capture.states.items()}
    frozen = freeze_sites(program.rolled, placed, calibration.bases, holders)
    return replace(
        program,
        graph_module=frozen.graph_module,
        nest=with_bodies(program.nest, frozen.graph_module),
        sites=tuple(p.site for p in ranked),
        constants={basis_name(p.site): _on_device(program, p.site, calibration.bases[p.site.key]) for p in placed},
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
    return replace(site, rank=basis.rank)


def _refuse_strangers(calibration: Calibration, known: set[str]) -> None:
    missing = sorted(calibration.bases.keys() - known)
    if missing:
        raise InputError(
            f"the calibration has a basis for {missing[0]}, which this program has no site for",
            where="calibration",
            fix="calibrate the model as it is called now; sites: " + (", ".join(sorted(known)) or "none"),
        )


def _on_device(program: Program, site: Site, found: SiteBasis) -> Tensor:
    holder = next(t for t in program.weights if program.capture.states.get(t) == site.weight)
    return found.basis.to(program.weights[holder].device)
