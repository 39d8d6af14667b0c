"""Measures one model of the zoo: trained, and with its weights drawn anew."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

import laser_fx
from laser_fx.options import Options
from laser_fx.passes.pipeline import place_sites
from laser_fx.program import Program
from laser_fx.reporting import ENERGIES, StepSpectrum
from laser_fx.reporting.instruments.control import redrawn
from laser_fx.reporting.instruments.dynamics import measure_dynamics
from laser_fx.reporting.instruments.spectra import measure_step_spectra
from laser_fx.reporting.instruments.spectrum import rounded
from laser_fx.reporting.instruments.trajectories import measure_trajectories
from laser_fx.zoo import Solve, held_out, load
from laser_fx.zoo.trm import Batch

__all__ = ["MODELS", "measured"]

MODELS = ("attention", "sudoku")
STEPS = 8
"""Supervision steps: those at which the models were scored."""
ROWS = 12
"""Puzzles for spectra and trajectories; ranks are bounded by their tokens."""
FEW_ROWS = 2
"""Puzzles for Jacobians: each brings eigenvalues of its own, and the largest of all are found."""
JACOBIANS = 4
SEED = 1
"""Of the puzzles: others than those that accuracy is measured on."""


def measured(name: str) -> dict[str, Any]:
    """Everything that is measured of a model of the zoo, as data."""
    torch.manual_seed(0)
    batch = held_out(name, ROWS, SEED)
    puzzles = batch["inputs"]
    model = Solve(load(name), STEPS).eval()
    compiled = laser_fx.compile(model, (puzzles,), options=Options.exact())
    untrained, kept = redrawn(model, seed=0)
    assert not kept
    trained = {**_arm(compiled.program, puzzles), "puzzles": by_puzzle(model, batch)}
    model.load_state_dict(untrained.state_dict())
    return {
        "steps": STEPS,
        "rows": ROWS,
        "jacobian_rows": FEW_ROWS,
        "nest": [[loop.name, prod(compiled.loops.trips_around(loop.name))] for loop in compiled.loops.walk()],
        "trained": trained,
        "untrained": {**_arm(compiled.program, puzzles), "puzzles": by_puzzle(model, batch)},
    }


@torch.no_grad()
def by_puzzle(model: Solve, batch: Batch) -> list[dict[str, Any]]:
    """Of each puzzle: whether it is solved after the last supervision step, and how far each step moved its state."""
    carry = model.trm.initial_carry(batch).inner_carry
    changes = []
    for _ in range(STEPS):
        before = torch.cat([carry.z_H, carry.z_L], 1).flatten(1)
        carry, logits, _ = model.trm.inner(carry, batch)
        after = torch.cat([carry.z_H, carry.z_L], 1).flatten(1)
        changes.append(((after - before).norm(dim=1) / before.norm(dim=1)).tolist())
    solved = (logits.argmax(-1) == batch["labels"]).all(-1).tolist()
    moves = zip(*changes, strict=True)
    return [{"solved": done, "change": [rounded(c) for c in own]} for done, own in zip(solved, moves, strict=True)]


def _arm(program: Program, puzzles: Tensor) -> dict[str, Any]:
    return {
        "loops": [asdict(loop) for loop in measure_dynamics(_with(program, puzzles[:FEW_ROWS]), JACOBIANS)],
        "carries": [
            {"loop": t.loop, "carry": t.carry, "change": [step.change for step in t.steps]}
            for t in measure_trajectories(program)
        ],
        "sites": _sites(program),
    }


def _with(program: Program, inputs: Tensor) -> Program:
    """The program with fewer rows for its example inputs."""
    call = replace(program.capture.call, tensors=(inputs,))
    return replace(program, capture=replace(program.capture, call=call))


def _sites(program: Program) -> list[dict[str, Any]]:
    """By loop and step: the median over sites of the rank at 99 %, as a share of its bound, and of the drift."""
    placed = place_sites(program, "forward")
    spectra = measure_step_spectra(program, placed)
    found = []
    for name in sorted({p.site.loop for p in placed}, key=len):
        sites = [p.site for p in placed if p.site.loop == name]
        rows = zip(*(spectra[site.key] for site in sites), strict=True)
        bounds = [min(site.shape) for site in sites]
        found.append({"loop": name, "sites": len(sites), "steps": [_step(row, bounds) for row in rows]})
    return found


def _step(spectra: Sequence[StepSpectrum], bounds: Sequence[int]) -> dict[str, Any]:
    at = ENERGIES.index(0.99)
    drifts = [spectrum.mean_drift for spectrum in spectra if spectrum.mean_drift is not None]
    return {
        "step": spectra[0].step,
        "rank_share": rounded(statistics.median(s.ranks[at] / b for s, b in zip(spectra, bounds, strict=True))),
        "centred_share": rounded(
            statistics.median(s.centred_ranks[at] / b for s, b in zip(spectra, bounds, strict=True))
        ),
        "drift": rounded(statistics.median(drifts)) if drifts else None,
    }
