"""From records to the figures of the study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.accuracy.arms import ARMS
from benchmarks.accuracy.recipes import HELD_OUT, MODELS
from benchmarks.accuracy.records import Key, Record
from benchmarks.accuracy.run import unpack
from benchmarks.accuracy.statistics import LEVEL, MARGIN, Paired, discordance, mean_interval, paired, pooled, wilson

__all__ = ["aggregate", "verdict"]

REFERENCE = "eager"
FIRST_SEEDS = 5
Figures = dict[str, Any]


def aggregate(records: Mapping[Key, Record]) -> Figures:
    """The study as data.

    Args:
        records: the runs that count, by model, arm and seed.
    """
    models = [model for model in MODELS if any(key[0] == model for key in records)]
    return {
        "command": "python -m benchmarks.accuracy",
        "margin": MARGIN,
        "level": LEVEL,
        "first_seeds": FIRST_SEEDS,
        "held_out": HELD_OUT,
        "commits": sorted({record["commit"] for record in records.values()}),
        "environment": next((record["environment"] for record in records.values()), {}),
        "models": {model: _model(model, records) for model in models},
    }


def verdict(same_weights: bool, test: Paired) -> str:
    """What the data support, in a word or two. Equivalence is asked first: a difference may be real and too small.

    >>> passed = Paired(0.001, 0.004, (-0.002, 0.004), (-0.001, 0.003), tost=0.001, difference=0.4)
    >>> verdict(False, passed), verdict(True, passed)
    ('equivalent', 'identical')
    """
    if same_weights:
        return "identical"
    if test.tost < LEVEL:
        return "equivalent"
    if test.difference < LEVEL:
        return "worse" if test.mean < 0 else "better"
    return "cannot tell"


def _model(model: str, records: Mapping[Key, Record]) -> Figures:
    by_arm = {arm: _by_seed(records, model, arm) for arm in ARMS}
    eager = by_arm[REFERENCE]
    return {
        "recipe": repr(MODELS[model]),
        "untrained": [_scored(seed, record["untrained"]) for seed, record in eager.items()],
        "ranks": _ranks(list(eager.values())),
        "arms": {arm: _arm(arm, runs, eager) for arm, runs in by_arm.items() if runs},
    }


def _by_seed(records: Mapping[Key, Record], model: str, arm: str) -> dict[int, Record]:
    return {seed: record for (m, a, seed), record in sorted(records.items()) if (m, a) == (model, arm)}


def _arm(arm: str, runs: Mapping[int, Record], eager: Mapping[int, Record]) -> Figures:
    exact = [_exact(record) for record in runs.values()]
    found: Figures = {
        "title": ARMS[arm].title,
        "runs": [_run(record, eager.get(seed) if arm != REFERENCE else None) for seed, record in runs.items()],
        "mean": float(np.mean(exact)),
        "deviation": float(np.std(exact, ddof=1)) if len(exact) > 1 else None,
        "interval_95": mean_interval(exact) if len(exact) > 1 else None,
        "cpu_seconds": float(np.mean([record["cpu_seconds"] for record in runs.values()])),
    }
    both = [seed for seed in runs if seed in eager]
    if arm != REFERENCE and len(both) > 1:
        found["against_eager"] = _against([runs[seed] for seed in both], [eager[seed] for seed in both])
    return found | _details(list(runs.values()))


def _against(mine: Sequence[Record], eager: Sequence[Record]) -> Figures:
    test = paired([_exact(record) for record in mine], [_exact(record) for record in eager])
    same = all(a["weights"] == b["weights"] for a, b in zip(mine, eager, strict=True))
    parts = [discordance(_answers(a), _answers(b)) for a, b in zip(mine, eager, strict=True)]
    agreed = [
        sum(x == y for x, y in zip(_answers(a), _answers(b), strict=True)) for a, b in zip(mine, eager, strict=True)
    ]
    return {
        "seeds": [record["seed"] for record in mine],
        **asdict(test),
        "tost_first": _first_tost(mine, eager),
        "mcnemar_pooled": asdict(pooled(parts)),
        "mcnemar_seeds_below_level": sum(part.p < LEVEL for part in parts),
        "same_answers": sum(agreed) / sum(record["count"] for record in mine),
        "same_weights": same,
        "verdict": verdict(same, test),
    }


def _first_tost(mine: Sequence[Record], eager: Sequence[Record]) -> float | None:
    """TOST of the seeds that the study began with, where others were added later: it shows what the adding decided."""
    if len(mine) <= FIRST_SEEDS:
        return None
    return paired(
        [_exact(record) for record in mine[:FIRST_SEEDS]], [_exact(record) for record in eager[:FIRST_SEEDS]]
    ).tost


def _run(record: Record, eager: Record | None) -> Figures:
    found = {**_scored(record["seed"], record), "weights": record["weights"], "seconds": record["seconds"]}
    if eager is not None:
        found["difference"] = _exact(record) - _exact(eager)
        found["mcnemar"] = asdict(discordance(_answers(record), _answers(eager)))
    return found


def _scored(seed: int, scored: Record) -> Figures:
    solved, count = scored["solved"], scored["count"]
    return {"seed": seed, "solved": solved, "count": count, "exact": solved / count, "wilson_95": wilson(solved, count)}


def _details(runs: Sequence[Record]) -> Figures:
    """What an arm kept and got wrong, where that was measured."""
    found: Figures = {}
    if "kept" in runs[0]:
        found["kept_fraction"] = float(np.mean([record["kept"]["fraction"] for record in runs]))
        found["kept_bytes"] = float(np.mean([record["kept"]["bytes"] for record in runs]))
        found["planned_fraction"] = _mean(record["plan_fraction"] for record in runs)
        for at in ("untrained", "trained"):
            measured = [record[f"gradient_{at}"] for record in runs]
            found[f"gradient_{at}"] = {
                "worst_relative_error": max(m["worst_relative_error"] for m in measured),
                "least_cosine": min(m["least_cosine"] for m in measured),
            }
    tracked = [record["all_sites"] for record in runs if "all_sites" in record]
    if tracked:
        found["sites"] = len(next(record["sites"] for record in runs if "sites" in record))
        found["tracking"] = {name: _mean(entry[name] for entry in tracked) for name in tracked[0]}
    return found


def _ranks(eager: Sequence[Record]) -> dict[str, Figures]:
    """Site → its width and the ranks before and after training, means over the seeds that have them."""
    eager = [record for record in eager if "ranks_untrained" in record]
    sites = eager[0]["ranks_untrained"] if eager else {}
    return {
        site: {
            "width": sites[site]["width"],
            **{
                f"{when} {energy}": _mean(record[f"ranks_{when}"][site][energy] for record in eager)
                for when in ("untrained", "trained")
                for energy in ("0.99", "0.999")
            },
        }
        for site in sites
    }


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def _exact(record: Record) -> float:
    return float(record["solved"] / record["count"])


def _answers(record: Record) -> list[bool]:
    return unpack(record["answers"], record["count"])
