"""Part five: end-to-end speed of the trained models in the low ranks that `benchmarks.lowrank` found for them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import laser_fx
from benchmarks.deploy.cases import Plan
from benchmarks.deploy.clock import interleaved, ratio
from benchmarks.deploy.files import Files
from benchmarks.deploy.records import Missing, Records
from benchmarks.deploy.sessions import answer, session
from laser_fx.calibration import Calibration, SiteBasis
from laser_fx.loops import Site
from laser_fx.zoo import Solve, held_out, load

__all__ = ["equivalent", "measure", "with_ranks"]

RUNS = Path(__file__).parents[1] / "results" / "lowrank_runs.jsonl"
MARGIN, Z = 0.01, 1.644854
BATCHES = (1, 8)
ROUNDS = 25
Point = Mapping[str, Any]


def measure(plan: Plan, files: Files, records: Records) -> None:
    """Records ``low_rank``: a row for each model, point and batch."""
    if not RUNS.exists():
        records.once("low_rank", "trained", partial(_refuse, f"there is no {RUNS.name}"))
        return
    points = [json.loads(line) for line in RUNS.read_text(encoding="utf-8").splitlines()]
    for point in _chosen(points):
        for batch in BATCHES:
            key = f"{point['model']}/{point['choice']}/{point['share']}/batch {batch}"
            records.once("low_rank", key, partial(_row, plan, files, point, batch))


def _refuse(why: str) -> dict[str, Any]:
    raise Missing(why)


def _chosen(points: list[Point]) -> Iterator[Point]:
    """Of each model the cheapest point that is equivalent to the exact one, and the one at the goal that keeps most."""
    for model in dict.fromkeys(point["model"] for point in points):
        own = [p for p in points if p["model"] == model and p["steps"] == p["calibrated_at"]]
        equal = sorted((p for p in own if equivalent(p)), key=lambda p: p["flops_share"])
        goal = sorted((p for p in own if p["flops_share"] <= 0.451), key=lambda p: _loss(p)[0])
        yield from {id(point): point for point in (*equal[:1], *goal[:1])}.values()


def _loss(point: Point) -> tuple[float, float]:
    """Share of the puzzles that the point loses against the exact model, and its standard error."""
    lost, gained, count = point["lost"], point["gained"], point["puzzles"]
    return (lost - gained) / count, math.sqrt(lost + gained - (lost - gained) ** 2 / count) / count


def equivalent(point: Point) -> bool:
    """Whether two one-sided tests find the loss within a point, at 5 %, puzzle by puzzle.

    >>> equivalent({"lost": 20, "gained": 15, "puzzles": 4000})
    True
    >>> equivalent({"lost": 60, "gained": 15, "puzzles": 4000})
    False
    """
    loss, error = _loss(point)
    return abs(loss) + Z * error < MARGIN


def _row(plan: Plan, files: Files, point: Point, batch: int) -> dict[str, Any]:
    model, steps = point["model"], point["steps"]
    inputs = held_out(model, max(BATCHES))["inputs"]
    exact = files.exported(f"{model}-exact-{steps}", lambda: _exact(model, steps, inputs))
    name = f"{model}-{point['choice'].replace(' ', '-').replace(',', '')}-{point['share']}"
    low = files.exported(name, lambda: _low(point, inputs))
    rows = inputs[:batch].numpy()
    sessions = {"exact": session(exact.path), "low": session(low.path)}
    spent = interleaved({n: partial(answer, s, rows) for n, s in sessions.items()}, rounds=min(ROUNDS, 3 * plan.rounds))
    config = load(model).config
    return {
        "kind": "trained",
        "title": f"`{model}`, D = {config.hidden_size}, {config.seq_len} tokens",
        "width": config.hidden_size,
        "batch": batch,
        "choice": point["choice"],
        "flops_share": point["flops_share"],
        "seconds": statistics.median(spent["low"]),
        "speed": ratio(spent["exact"], spent["low"]),
        "equivalent": equivalent(point),
        "solved": point["solved"] / point["puzzles"],
        "exact": point["exact"] / point["puzzles"],
        "puzzles": point["puzzles"],
        "rounds": len(spent["low"]),
    }


def _exact(model: str, steps: int, inputs: torch.Tensor) -> laser_fx.CompiledModel:
    return laser_fx.compile(Solve(load(model), steps).eval(), (inputs,), options=laser_fx.Options.exact())


def _low(point: Point, inputs: torch.Tensor) -> laser_fx.CompiledModel:
    """The model through random bases of the point's ranks: as fast as through the calibrated ones."""
    exact = _exact(point["model"], point["steps"], inputs)
    trips = {loop.name: loop.trip_count for loop in exact.loops.walk()}
    found = with_ranks(exact.sites, point["ranks"], trips if "per step" in point["choice"] else None)
    schedule = (1.0, "exact") if "last step exact" in point["choice"] else None
    options = laser_fx.Options(
        basis="frozen" if "per step" not in point["choice"] else "per_step",
        memory=None,
        measure=False,
        rank_schedule=schedule,
    )
    model = Solve(load(point["model"]), point["steps"]).eval()
    return laser_fx.compile(model, (inputs,), options=options, calibration=found)


def with_ranks(
    sites: tuple[Site, ...], ranks: Mapping[str, int], trips: Mapping[str, int] | None = None
) -> Calibration:
    """Orthonormal bases of no meaning and of these ranks.

    Args:
        sites: of the model.
        ranks: by site; a site that has none stays exact.
        trips: of every loop, for a basis at each step; None for one basis.
    """
    generator = torch.Generator().manual_seed(0)
    bases = {}
    for site in (site for site in sites if site.key in ranks):
        steps = [] if trips is None else [trips[name] for name in around(site.loop)]
        wide = torch.randn(*steps, site.outputs, ranks[site.key], generator=generator)
        bases[site.key] = SiteBasis("output", torch.linalg.qr(wide).Q.contiguous())
    return Calibration(bases, "agreement", 1.0, 0.0, 1.0, (0.0, 1.0), 0, ())


def around(loop: str) -> list[str]:
    """A loop and those around it, outermost first.

    >>> around("loop_0_1_0")
    ['loop_0', 'loop_0_1', 'loop_0_1_0']
    """
    parts = loop.split("_")
    return ["_".join(parts[:end]) for end in range(2, len(parts) + 1)]
