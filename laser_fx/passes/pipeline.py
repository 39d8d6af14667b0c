"""The way from a model and a call to a program: capture, normalise, detect, reroll, find sites, insert tracking."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, fx, nn

from laser_fx import subspace
from laser_fx.aside import aside
from laser_fx.call import Call
from laser_fx.capture import capture, check_finite
from laser_fx.captured import LITERAL, Captured
from laser_fx.dump import passed
from laser_fx.errors import CaptureError, PassError
from laser_fx.events import tell
from laser_fx.loops import LoopNest, Site, Step
from laser_fx.marks import mark_loops
from laser_fx.nodes import code_line, is_mutating
from laser_fx.options import Options
from laser_fx.passes.choose_sites import choose_sites, tracked_rank
from laser_fx.passes.find_sites import PlacedSite, find_sites
from laser_fx.passes.insert_probes import insert_probes
from laser_fx.passes.insert_tracking import THRESHOLD, Use, insert_tracking
from laser_fx.passes.kept_bytes import kept_bytes
from laser_fx.passes.memory_plan import plan_memory
from laser_fx.passes.nest_bodies import with_bodies
from laser_fx.passes.normalise import View, normalise
from laser_fx.passes.roll import Door, roll
from laser_fx.passes.sharing import saved_elsewhere
from laser_fx.program import Mode, Program, flat_record
from laser_fx.progress import stage

__all__ = ["build_program", "measure_spectra", "place_sites", "retrack", "view_of"]


def build_program(model: nn.Module, call: Call, mode: Mode, options: Options, *, dynamic: bool = True) -> Program:
    """Compile one call of ``model``.

    Args:
        model: in the mode that ``mode`` says.
        call: example inputs.
        mode: training flag, grad mode and autocast.
        options: what the program may do.
        dynamic: leave the shared leading dimension free.

    Raises:
        CaptureError: the model cannot be captured, or writes into its tensors where gradients are on.
        NonFiniteError: a weight or an input is not finite.
    """
    check_finite(model, call)
    captured = capture(model, call, grad_enabled=mode.grad_enabled, dynamic=dynamic, free_sizes=options.open_sizes)
    passed(captured.graph_module, "capture", captured.graph_module, type(model).__name__)
    for size in captured.fixed_sizes(options.open_sizes):
        sentence = "the model's code needs the size %r: it stays as in the example inputs"
        tell(logging.WARNING, "size_fixed", sentence, size, size=size)
    _refuse_mutation(captured)
    program = _roll(model, captured, mode, options)
    return _finish(program)


def _finish(program: Program) -> Program:
    """A rolled program with what its options ask for."""
    use = _use(program)
    if use is not None:
        return _track(program, use)
    if program.options.memory is None or not program.mode.grad_enabled or not program.nest:
        return program
    return plan_memory(program)


def _refuse_mutation(captured: Captured) -> None:
    levels = [m for m in captured.graph_module.modules() if isinstance(m, fx.GraphModule)]
    for node in (node for level in levels for node in level.graph.nodes):
        if is_mutating(node):
            raise CaptureError(
                f"{node.target} writes into its input while gradients are on",
                where=code_line(node),
                fix="use the operator without the underscore, inplace=False, or a norm without running statistics",
            )


@stage("finding loops")
def _roll(model: nn.Module, captured: Captured, mode: Mode, options: Options) -> Program:
    as_captured = Program(
        model=model,
        mode=mode,
        capture=captured,
        rolled=captured.graph_module,
        graph_module=captured.graph_module,
        nest=LoopNest(),
        certificate=None,
        sites=(),
        options=options,
    )
    try:
        rolled = roll(captured.graph_module, _door(model, captured), options.min_trip)
    except PassError as error:
        return replace(as_captured, notes=(f"loops were found, but the rewrite is not proved: {error}",))
    placed = find_sites(rolled.graph_module, captured.states)
    keys, sources = {p.node: p.site.key for p in placed}, {loop.name: loop.source for loop in rolled.nest.walk()}
    mark_loops(rolled.graph_module, "reroll", keys, sources)
    passed(captured.graph_module, "reroll", rolled.graph_module, type(model).__name__, rolled.notes)
    return replace(
        as_captured,
        rolled=rolled.graph_module,
        graph_module=rolled.graph_module,
        nest=with_bodies(rolled.nest, rolled.graph_module),
        certificate=rolled.certificate,
        sites=tuple(p.site for p in placed),
        notes=rolled.notes,
    )


def view_of(model: nn.Module, captured: Captured) -> View:
    """The normalised view of what was captured of a model."""
    door = _door(model, captured)
    return normalise(captured.graph_module.graph, door.identities, door.parameters, door.grad_enabled)


def _door(model: nn.Module, captured: Captured) -> Door:
    parameters = frozenset(name for name, target in captured.states.items() if _is_parameter(model, target))
    return Door(_identities(model, captured), parameters, captured.states, captured.grad_enabled)


def _use(program: Program) -> Use | None:
    """What a basis would serve here, None for nothing."""
    if program.mode.grad_enabled:
        return "backward" if program.options.memory == "laser" and program.options.tracking == "step" else None
    # A training forward is exact without gradients too: checkpointing runs it once without, and once with them.
    return (
        "forward"
        if program.options.forward == "lowrank" and program.options.basis == "tracked" and not program.mode.training
        else None
    )


def place_sites(program: Program, use: Use) -> tuple[PlacedSite, ...]:
    """The sites of the exact graph that a basis of this use would serve."""
    return find_sites(program.rolled, program.capture.states, with_gradients=use == "backward")


def retrack(program: Program, options: Options) -> Program:
    """The same program under other options: what was captured, rolled, proved and measured is kept.

    Args:
        program: any program.
        options: with the same ``min_trip``, which decides what a loop is.
    """
    plain = replace(
        program,
        graph_module=program.rolled,
        nest=with_bodies(program.unsplit or program.nest, program.rolled),
        unsplit=None,
        options=options,
        constants={},
        record_names=(),
        left_exact={},
    )
    with aside(), torch.inference_mode(False), program.mode.casting(program.capture.call):
        return _finish(plain)


def _track(program: Program, use: Use) -> Program:
    placed = place_sites(program, use)
    if not placed:
        return program
    program = _measured(program, placed, use)
    if use == "backward":
        return _inserted(program, _for_training(program, placed), use)
    spectra = {"activation": program.spectra, "output": program.output_spectra}
    choice = choose_sites(placed, program.options, spectra, lambda ranked: _tried(program, ranked))
    left = [f"left exact: {key}: {why}" for key, why in choice.left_exact.items()]
    tracked = _inserted(program, choice.tracked, use)
    ranked = {p.site.key: p.site for p in choice.tracked}
    return replace(
        tracked,
        sites=tuple(ranked.get(p.site.key, p.site) for p in placed),
        left_exact=choice.left_exact,
        notes=(*tracked.notes, *left),
    )


def _measured(program: Program, placed: Sequence[PlacedSite], use: Use) -> Program:
    """The program with the spectra that ranks are chosen by."""
    options = program.options
    if options.rank is not None:
        return program
    missing = any(p.site.key not in program.spectra for p in placed)
    if missing and (use == "backward" or options.objective != "output"):
        program = replace(program, spectra=measure_spectra(program, placed))
    missing = any(p.site.key not in program.output_spectra for p in placed)
    if missing and use == "forward" and options.objective != "activation":
        program = replace(program, output_spectra=measure_spectra(program, placed, "output"))
    return program


def _for_training(program: Program, placed: Sequence[PlacedSite]) -> list[PlacedSite]:
    """Sites whose Z and Q are smaller than the X that they stand for, and that nothing else keeps."""
    ranked = [replace(p, site=replace(p.site, rank=_rank(p.site, program))) for p in placed]
    return [p for p in ranked if _saves_bytes(p, program) and saved_elsewhere(p.node) is None]


def _rank(site: Site, program: Program) -> int:
    if program.options.rank is not None:
        return min(program.options.rank, site.features)
    return tracked_rank(program.spectra[site.key].double().square(), program.options.fidelity)


@stage("trying bases")
def _tried(program: Program, ranked: Sequence[PlacedSite]) -> dict[str, tuple[Step, ...]]:
    """What each step of these sites does on the example inputs."""
    tracked = _inserted(program, ranked, "forward")
    with torch.no_grad():
        values = tracked.run_graph(tracked.graph_module, program.capture.call.tensors)
    return tracked.steps(values[len(values) - len(tracked.record_names) :])


def _inserted(program: Program, ranked: Sequence[PlacedSite], use: Use) -> Program:
    if not ranked:
        return program
    tracked = insert_tracking(program.rolled, ranked, use)
    passed(program.captured, "insert_tracking", tracked.graph_module, type(program.model).__name__, tracked.notes)
    return replace(
        program,
        graph_module=tracked.graph_module,
        nest=with_bodies(program.nest, tracked.graph_module),
        sites=tuple(p.site for p in ranked),
        constants=_constants(tracked.graph_module, tracked.constants, program.options),
        record_names=tracked.records,
        notes=(*program.notes, *tracked.notes),
    )


def _saves_bytes(placed: PlacedSite, program: Program) -> bool:
    """Whether Z and Q are smaller than the X that they stand for; a training graph leaves other sites as they are."""
    kept = kept_bytes(placed.site, placed.node, program.mode.autocast)
    return kept.low < kept.exact


@stage("measuring activations")
def measure_spectra(
    program: Program, placed: Sequence[PlacedSite], of: Literal["activation", "output"] = "activation"
) -> dict[str, Tensor]:
    """Site → singular values (steps, width) of its activation or its output on the example inputs, on the CPU."""
    probed = insert_probes(program.rolled, placed, of)
    passed(program.captured, "insert_probes", probed.graph_module, type(program.model).__name__, probed.notes)
    with torch.no_grad():
        values = program.run_graph(probed.graph_module, program.capture.call.tensors)
    records = values[len(values) - len(probed.records) :]
    return {
        key: torch.stack([v.cpu() for v in flat_record(record)])
        for key, record in zip(probed.records, records, strict=True)
    }


def _constants(graph_module: fx.GraphModule, names: Sequence[str], options: Options) -> dict[str, Tensor]:
    values = {n.name: n.meta["val"] for n in graph_module.graph.nodes if n.op == "placeholder" and n.name in names}
    made: dict[str, Tensor] = {}
    for name, value in values.items():
        if name == THRESHOLD:
            made[name] = torch.tensor(options.fidelity, dtype=torch.float32, device=value.device)
        else:
            made[name] = subspace.sketch(value.shape[0], value.shape[1], name).to(value.device)
    return made


def _identities(model: nn.Module, captured: Captured) -> dict[str, Hashable]:
    """What tells a placeholder's tensor from others: tied weights are one, and so are equal literals of the code.

    Tensors that the model holds as plain attributes may be written to later: each stays what it is.
    """
    states = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    identities: dict[str, Hashable] = {
        name: _content(value) if LITERAL in name else name for name, value in captured.constants.items()
    }
    for name, target in captured.states.items():
        value = states[target]
        # With gradients on, two parameters in one storage still have a gradient each.
        shared = value.numel() > 0 and not captured.grad_enabled
        identities[name] = _storage(value) if shared else id(value)
    return identities


def _content(value: Tensor) -> Hashable:
    """A constant's form and its bytes."""
    data = value.detach().reshape(-1).view(torch.uint8).cpu().numpy().tobytes()
    return str(value.dtype), str(value.device), tuple(value.shape), value.stride(), data


def _storage(value: Tensor) -> Hashable:
    address = value.untyped_storage().data_ptr()
    if not address:
        return id(value)
    return address, value.storage_offset(), tuple(value.shape), value.stride(), str(value.dtype)


def _is_parameter(model: nn.Module, name: str) -> bool:
    owner, _, attribute = name.rpartition(".")
    return attribute in model.get_submodule(owner)._parameters
