"""From a program to its report: what it did, and what it costs, measured on its example inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from laser_fx import subspace
from laser_fx.call import Call
from laser_fx.errors import InputError, LaserError
from laser_fx.loops import Site, Step
from laser_fx.memory.copies import copied, copied_inputs
from laser_fx.memory.measure import flops, saved_bytes
from laser_fx.memory.plan import Plan, plan_of
from laser_fx.options import Options
from laser_fx.passes.cut_segments import segments_of
from laser_fx.passes.infra import count_nodes
from laser_fx.passes.kept_bytes import bytes_at_sites
from laser_fx.passes.near_miss import near_misses_of
from laser_fx.passes.pipeline import measure_spectra, place_sites
from laser_fx.passes.sharing import saved_elsewhere
from laser_fx.program import Program
from laser_fx.progress import stage
from laser_fx.reporting.environment import environment
from laser_fx.reporting.instruments.choose import Measure
from laser_fx.reporting.instruments.fill import Doors, filled
from laser_fx.reporting.instruments.onnx_sizes import Export
from laser_fx.reporting.instruments.trained import trained_as
from laser_fx.reporting.parts import ENERGIES, Flops, GraphSize, SavedBytes, SiteReport
from laser_fx.reporting.report import Report
from laser_fx.sentences import first_line

__all__ = ["describe_program"]

Compile = Callable[[nn.Module, Options], Any]


@torch.inference_mode(False)  # hooks of the counters, and copies that train, do not work inside of it
def describe_program(
    program: Program,
    steps: Mapping[str, tuple[Step, ...]],
    compile_copy: Compile | None = None,
    measures: Sequence[Measure] = (),
    export: Export | None = None,
) -> Report:
    """Measure a program and say what was found.

    Args:
        program: any program.
        steps: site → what its steps recorded in the latest call; empty if it was not called.
        compile_copy: compiles a copy of a model, to measure what a training step saves; None to leave that out.
        measures: what else to measure, see `laser_fx.reporting.instruments.choose.MEASURES`.
        export: writes an ONNX file of the inference program, for the sizes of files; None to leave them out.
    """
    placed = place_sites(program, "backward" if program.mode.grad_enabled else "forward")
    spectra = program.spectra or (measure_spectra(program, placed) if placed else {})
    ranked = {site.key: site for site in program.sites}
    total = _forward_flops(program, exact=True)
    segments = segments_of(program.graph_module)
    saved, saved_by_site, not_trained = _saved(program, compile_copy) if compile_copy else (None, None, None)
    # The pieces of a loop that a schedule split have sites of their own.
    shown = program.sites if program.unsplit else [ranked.get(p.site.key, p.site) for p in placed]
    sites = tuple(_site_report(s, steps.get(s.key, ()), spectra, program.options, total) for s in shown)
    wild = [site.key for site in shown if site.key in spectra and not bool(spectra[site.key].isfinite().all())]
    sites = tuple(replace(s, left_exact=program.left_exact.get(s.site.key)) for s in sites)
    report = Report(
        model=type(program.model).__name__,
        loops=program.nest,
        sites=_with_saved_shares(sites, saved, saved_by_site),
        options=program.options,
        environment=environment(),
        flops=_flops(program, [p.site for p in placed], total),
        saved_bytes=saved,
        graph=GraphSize(count_nodes(program.captured), count_nodes(program.rolled)),
        warnings=(*_warnings(program, sites), *_not_finite(wild), *([not_trained] if not_trained else [])),
        near_misses=near_misses_of(program),
        plan=plan_of(segments, program.gradient_error) if segments else None,
    )
    return filled(report, program, placed, measures, Doors(compile_copy, export))


def _not_finite(sites: Sequence[str]) -> Iterator[str]:
    if sites:
        more = f" and {len(sites) - 1:,} more" if len(sites) > 1 else ""
        yield f"on the example inputs activations have NaN or infinities, and no rank is said: {sites[0]}{more}"


def _site_report(
    site: Site,
    steps: tuple[Step, ...],
    spectra: Mapping[str, Tensor],
    options: Options,
    total_flops: int,
) -> SiteReport:
    if site.key not in spectra or not bool(spectra[site.key].isfinite().all()):
        return SiteReport(site, steps, flops_share=_share(_linear_flops(site), total_flops))
    energies = spectra[site.key].double().square()
    shown = site.rank or _needed(energies, options.fidelity)
    held = energies[:, :shown].sum(1) / energies.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
    return SiteReport(
        site=site,
        steps=steps,
        rank_at=tuple(_needed(energies, share) for share in ENERGIES),
        energy=float(held.min()),
        flops_share=_share(_linear_flops(site), total_flops),
    )


def _needed(energies: Tensor, share: float) -> int:
    """The least rank that holds this share of the energy at every step. ``energies``: (steps, D)."""
    return max(int(subspace.needed_rank(step, step.sum(), share)) for step in energies)


def _share(part: int, whole: int) -> float | None:
    return min(1.0, part / whole) if whole else None


def _linear_flops(site: Site) -> int:
    return 2 * site.rows * site.features * site.outputs * site.steps


def _flops(program: Program, sites: Sequence[Site], total: int) -> Flops:
    at_sites = sum(_linear_flops(site) for site in sites)
    if program.graph_module is program.rolled or program.mode.grad_enabled:
        return Flops(total, at_sites)
    return Flops(total, at_sites, _forward_flops(program, exact=False) - (total - at_sites))


@stage("counting operations")
def _forward_flops(program: Program, *, exact: bool) -> int:
    graph_module = program.rolled if exact else program.graph_module
    # The counter puts hooks on what asks for gradients, and fails at views of it that are made without.
    arguments = [tensor.detach() for tensor in program.arguments(graph_module, program.example_inputs)]
    with torch.no_grad():
        return flops(lambda: graph_module(*arguments))


@stage("measuring a training step")
def _saved(program: Program, compile_copy: Compile) -> tuple[SavedBytes | None, Mapping[str, int] | None, str | None]:
    """What one training step holds for backward: eager, and with LASER at its sites; bytes of X by site name.

    A model that cannot be compiled with gradients has eager's alone, and a sentence that says why.
    """
    try:
        model = copied(program.model).train()
    except InputError as error:
        return None, None, f"what training saves is not measured: {error.what}"
    if not any(p.requires_grad for p in model.parameters()):
        return None, None, None
    call = replace(program.capture.call, tensors=copied_inputs(program.capture.call))
    chosen = program.options
    options = replace(chosen, memory="laser", approximate=False, centre=chosen.centre and chosen.tracking != "step")
    with trained_as(program):
        try:
            eager = _count(model, call)
        except Exception as error:  # whatever the model's own code raises
            return None, None, f"what training saves is not measured, training fails: {first_line(error)}"
        compiled = compile_copy(model, options).train()
        try:
            saved = _saved_by_laser(compiled, call, eager)
        except LaserError as error:
            return SavedBytes(eager), None, f"the model cannot be compiled for training: {error.what}"
    return saved, _kept_by_linears(compiled.program), None


def _saved_by_laser(compiled: Any, call: Call, eager: int) -> SavedBytes:
    laser = _count(compiled, call)
    training: Program = compiled.program
    plan: Plan | None = compiled.plan
    if plan is not None:
        kept = [row for row in plan.rows if row.codec.startswith("lowrank")]
        return SavedBytes(eager, sum(row.before for row in kept), laser, sum(row.after for row in kept))
    if not training.record_names:
        return SavedBytes(eager)
    at_sites = _site_bytes(training, training.run(call)[1])
    return SavedBytes(eager, max(eager - laser + at_sites, 0), laser, at_sites)


def _count(module: nn.Module, call: Call) -> int:
    args, kwargs = call.rebuild(call.tensors)
    return saved_bytes(lambda: module(*args, **kwargs), exclude=[*module.buffers(), *call.tensors])


def _site_bytes(program: Program, records: Sequence[Any]) -> int:
    """Coefficients and bases that the sites of a training call keep; an exact step keeps X."""
    sites = bytes_at_sites(program)
    total = 0
    for key, recorded in program.steps(records).items():
        _, kept = sites[key]
        total += sum(kept.exact if step.exact else kept.low for step in recorded)
    return total


def _kept_by_linears(program: Program) -> Mapping[str, int]:
    """Name of a site → what eager training keeps of X there, in all steps, that no other operator keeps."""
    found: Counter[str] = Counter()
    for placed, kept in bytes_at_sites(program).values():
        if saved_elsewhere(placed.node) is None:
            found[placed.site.name] += kept.exact * placed.site.steps
    return found


def _with_saved_shares(
    sites: tuple[SiteReport, ...], saved: SavedBytes | None, by_name: Mapping[str, int] | None
) -> tuple[SiteReport, ...]:
    """A training step keeps X at a module's innermost loop: its first site in the report stands for it."""
    if saved is None or by_name is None:
        return sites
    remaining = dict(by_name)
    return tuple(replace(s, saved_share=_share(remaining.pop(s.site.name, 0), saved.eager)) for s in sites)


def _warnings(program: Program, sites: Sequence[SiteReport]) -> tuple[str, ...]:
    found = []
    if not program.nest:
        found.append("no loop shares a weight from step to step: the model runs as it is")
    exact = sum(site.exact for site in sites)
    if exact:
        found.append(f"{exact} steps fell below the fidelity even after a reset and used the exact activation")
    if program.capture.doubled:
        found.append(
            "the example is a batch of one, and was measured as two equal rows, which leaves the batch free:"
            " FLOPs and bytes are those of both"
        )
    if program.capture.guards:
        found.append("the graph holds for the captured sizes only: " + "; ".join(program.capture.guards))
    return tuple(found)
