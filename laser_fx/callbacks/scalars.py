"""The latest call of a compiled model as numbers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from laser_fx.alarms import reset_rate
from laser_fx.compiled import CompiledModel
from laser_fx.loops import Step
from laser_fx.passes.cut_segments import segments_of
from laser_fx.passes.kept_bytes import KeptBytes, bytes_at_sites
from laser_fx.program import Program

__all__ = ["scalars", "site_tag"]

_kept: WeakKeyDictionary[Program, Mapping[str, KeptBytes]] = WeakKeyDictionary()
_totals: WeakKeyDictionary[Program, tuple[tuple[object, ...], tuple[int, int]]] = WeakKeyDictionary()


def scalars(compiled: CompiledModel, *, sites: bool = True) -> dict[str, float]:
    """What the latest call measured at its sites, and what it kept for backward.

    For each site, ``fidelity/loop_0/mlp.up``, and for all of them, ``fidelity``: the least fidelity at which a step
    used its basis; ``rank``, the largest; ``reset_rate``, the share of steps after the first that made a fresh basis;
    ``exact_rate``, the share of steps that used X itself; of rates the mean. ``saved_bytes/sites_exact`` and
    ``saved_bytes/sites`` are what training by ``memory="laser"`` keeps of the activations at sites: as they are, and
    in low rank, at the rows that were compiled for. ``saved_bytes/eager`` and ``saved_bytes/plan`` are all bytes that
    eager keeps, and that a memory plan does.

    Args:
        compiled: a model that was called.
        sites: whether to tell of each site too.

    Raises:
        InputError: it was neither called nor compiled yet.
    """
    program, recorded = compiled.program, compiled.latest_steps
    found = _of_all(recorded) if recorded else {}
    if sites:
        for key, steps in recorded.items():
            found |= {f"{name}/{site_tag(key)}": value for name, value in _of_steps(steps).items()}
    return found | _saved_bytes(compiled, program, recorded)


def site_tag(key: str) -> str:
    """A site's key without what TensorBoard has no room for.

    >>> site_tag("loop_0:layers.0.mlp.up#1")
    'loop_0/layers.0.mlp.up_1'
    """
    loop, _, name = key.partition(":")
    return "/".join(part for part in (loop, name.replace("#", "_")) if part)


def _of_steps(steps: Sequence[Step]) -> dict[str, float]:
    used = [step for step in steps if not step.exact]
    found = {
        "reset_rate": reset_rate(steps),
        "exact_rate": sum(step.exact for step in steps) / len(steps) if steps else 0.0,
    }
    if used:
        found["fidelity"] = min(step.fidelity for step in used)
        found["rank"] = float(max(step.rank for step in used))
    return found


def _of_all(recorded: Mapping[str, Sequence[Step]]) -> dict[str, float]:
    """The worst fidelity, the largest rank, and the mean of each rate."""
    each = [_of_steps(steps) for steps in recorded.values()]
    found = {name: sum(site[name] for site in each) / len(each) for name in ("reset_rate", "exact_rate")}
    for name, worst in (("fidelity", min), ("rank", max)):
        if values := [site[name] for site in each if name in site]:
            found[name] = worst(values)
    return found


def _saved_bytes(compiled: CompiledModel, program: Program, recorded: Mapping[str, Sequence[Step]]) -> dict[str, float]:
    if not program.mode.grad_enabled:
        return {}
    if segments := segments_of(program.graph_module):
        before, after = _plan_bytes(compiled, program, tuple(segment.latest for segment in segments))
        return {"saved_bytes/eager": float(before), "saved_bytes/plan": float(after)}
    sites = {key: kept for key, kept in _site_bytes(program).items() if key in recorded}
    if not sites:
        return {}
    exact = sum(kept.exact * len(recorded[key]) for key, kept in sites.items())
    low = sum(kept.exact if step.exact else kept.low for key, kept in sites.items() for step in recorded[key])
    return {"saved_bytes/sites_exact": float(exact), "saved_bytes/sites": float(low)}


def _site_bytes(program: Program) -> Mapping[str, KeptBytes]:
    """What one step keeps at each site with a basis; looked up once for each program."""
    if program not in _kept:
        ranked = {site.key for site in program.sites if site.rank is not None}
        _kept[program] = {key: kept for key, (_, kept) in bytes_at_sites(program).items() if key in ranked}
    return _kept[program]


def _plan_bytes(compiled: CompiledModel, program: Program, forms: tuple[object, ...]) -> tuple[int, int]:
    """A plan's totals, added up anew where the inputs have another form: that takes longer than a small step."""
    known = _totals.get(program)
    if known is None or known[0] != forms:
        plan = compiled.plan
        assert plan is not None  # there are segments
        known = _totals[program] = forms, (plan.before, plan.after)
    return known[1]
