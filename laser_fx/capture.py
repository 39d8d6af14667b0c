"""Model and example inputs to one flat ATen graph, its weights as placeholders.

The model is wrapped so that the tracer sees flat tensors: pytrees are taken apart and put together here, which lets
any dataclass, dict or tuple be an input or an output. Regions that the model runs under `torch.no_grad` are inlined,
and every node says in ``meta["grad_enabled"]`` under which mode it was captured.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec

from laser_fx.call import Call
from laser_fx.captured import Captured
from laser_fx.cut_structured import cut_structured
from laser_fx.errors import CaptureError, InputError, NonFiniteError
from laser_fx.inline_regions import inline_regions
from laser_fx.nodes import code_line
from laser_fx.progress import stage
from laser_fx.traced import Flat, traced

__all__ = ["capture", "check_finite"]

_MODEL = "model"
_NO_TENSOR = "pass at least one tensor: torch.from_numpy(array) makes one of an array"


@stage("tracing the model")
def capture(
    model: nn.Module,
    call: Call,
    *,
    grad_enabled: bool,
    dynamic: bool = True,
    free_sizes: Sequence[tuple[str, int, str]] = (),
    fixed_fronts: Collection[str] = (),
) -> Captured:
    """Capture one forward call of ``model`` in its present mode.

    Args:
        model: any module that `torch.export.export(strict=False)` takes.
        call: example inputs; a leading size of one is doubled, since torch specialises it.
        grad_enabled: whether gradients are on at the model's door.
        dynamic: leave the shared leading dimension free.
        free_sizes: input, dimension and name of other sizes to leave free, where the model's code allows that.
        fixed_fronts: inputs whose leading dimension the model's code needs as it is.

    Raises:
        CaptureError: torch.export refuses the model; the message names the line of the model's code.
        InputError: the model itself fails on the inputs.
    """
    if not call.tensors:
        raise InputError(f"the call has no tensor input{_given(call)}", where="example_inputs", fix=_NO_TENSOR)
    example = _double_single_batch(call) if dynamic else call
    flat = Flat(model, example)
    try:
        exported = traced(flat, example, grad_enabled, dynamic, _axes(example, free_sizes), fixed_fronts)
    except (CaptureError, InputError):
        if example is call:
            raise
        # It may be the second row that the model does not take.
        return capture(model, call, grad_enabled=grad_enabled, dynamic=False, free_sizes=free_sizes)
    _refuse_assigned(flat.outputs.assigned)
    if flat.outputs.holds_sizes():
        # The size would be burnt in as the example has it.
        return capture(model, call, grad_enabled=grad_enabled, dynamic=False, free_sizes=())
    fixed = _fixed(exported, example, free_sizes)
    if fixed:  # left free, one size that the code needs would tie the whole graph to the example's sizes
        left = [entry for entry in free_sizes if entry not in fixed]
        return capture(model, call, grad_enabled=grad_enabled, dynamic=dynamic, free_sizes=left)
    fronts = _fixed_fronts(exported, example)
    if fronts and example is not call:  # it was the two rows that it needs
        return capture(model, call, grad_enabled=grad_enabled, dynamic=False, free_sizes=free_sizes)
    if fronts:  # a size that looks free and is a number is taken for a free one
        fronts |= {*fixed_fronts}
        return capture(model, call, grad_enabled=grad_enabled, free_sizes=free_sizes, fixed_fronts=fronts)
    signature = exported.graph_signature
    _refuse_written_inputs(signature.output_specs, example.names)
    states, constants, inputs = _placeholders(exported, example.names)
    straight = fx.GraphModule(
        _submodules_of(exported.graph_module), inline_regions(exported.graph_module, grad_enabled, inputs)
    )
    _refuse_transforms(straight.graph)
    graph_module = cut_structured(straight)
    graph_module.graph.lint()
    mutations = tuple(
        str(spec.target).removeprefix(_MODEL + ".")
        for spec in signature.output_specs
        if spec.kind is OutputKind.BUFFER_MUTATION
    )
    return Captured(
        graph_module=graph_module,
        states=states,
        constants=constants,
        inputs=tuple(inputs.values()),
        call=example,
        guards=_extra_guards(exported),
        output_leaves=flat.outputs.leaves,
        output_names=flat.outputs.names,
        output_spec=flat.outputs.spec,
        mutations=mutations,
        grad_enabled=grad_enabled,
        doubled=example is not call,
    )


def _placeholders(
    exported: torch.export.ExportedProgram, names: Sequence[str]
) -> tuple[dict[str, str], dict[str, Tensor], dict[str, str]]:
    """The tracer's placeholders → names in the model's state, constants, and readable names of the inputs."""
    states: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    inputs: dict[str, str] = {}
    readable = iter(names)
    for spec in exported.graph_signature.input_specs:
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            states[spec.arg.name] = str(spec.target).removeprefix(_MODEL + ".")
        elif spec.kind is InputKind.USER_INPUT:
            inputs[spec.arg.name] = "in_" + re.sub(r"\W", "_", next(readable))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            constants[spec.arg.name] = exported.constants[str(spec.target)]
        else:
            raise CaptureError(
                f"the model holds a {spec.kind.name.lower()}, which a graph cannot take", where=str(spec.target)
            )
    return states, constants, inputs


def _refuse_transforms(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if getattr(node.target, "__module__", "").startswith(("torch._functorch", "torch._C._functorch")):
            raise CaptureError(
                "the model uses torch.vmap or another transform of torch.func, which a graph cannot hold",
                where=code_line(node),
                fix="write the batch dimension out, or apply the transform around the compiled model",
            )


def _refuse_assigned(names: Sequence[str]) -> None:
    if names:
        raise CaptureError(
            f"the model assigns {', '.join(names)} in its forward, which a graph cannot do",
            where="forward",
            fix="return the value, or write into a registered buffer in place (self.count.add_(1)); for a cache that"
            " forward fills when it is first called: call the model once before it is compiled",
        )


def _refuse_written_inputs(specs: Sequence[OutputSpec], names: Sequence[str]) -> None:
    known = (OutputKind.USER_OUTPUT, OutputKind.BUFFER_MUTATION)
    written = [str(spec.target) for spec in specs if spec.kind not in known]
    if written:
        raise CaptureError(
            f"the model writes into what it is called with: {', '.join(written)}",
            where=", ".join(names),
            fix="use the operator without the underscore, or clone the input first",
        )


def check_finite(model: nn.Module, call: Call, *, infinities: bool = False) -> None:
    """Raise `NonFiniteError`, naming the tensor, where a value cannot be meant.

    A parameter that trains must be finite. What does not train, a buffer or an input must have no NaN; it may be
    infinite, as attention masks are, unless ``infinities`` asks about buffers and inputs too.
    """
    named: list[tuple[str, Tensor, bool]] = []
    named += [(f"weight {name}", value, value.requires_grad) for name, value in model.named_parameters()]
    named += [(f"buffer {name}", value, infinities) for name, value in model.named_buffers()]
    named += [(f"input {name}", value, infinities) for name, value in zip(call.names, call.tensors, strict=True)]
    for where, value, finite in named:
        if not value.is_floating_point():
            continue
        bad = int((~torch.isfinite(value) if finite else torch.isnan(value)).sum())
        if bad:
            raise NonFiniteError(
                f"{bad} of {value.numel()} values are {'NaN or infinite' if finite else 'NaN'}",
                where=where,
                fix="find where they come from: a diverged training step, a division by zero, an overflow in float16",
            )


def _axes(call: Call, free_sizes: Sequence[tuple[str, int, str]]) -> dict[str, list[int]]:
    """Free dimensions besides the leading one, by input."""
    ranks = dict(zip(call.names, (tensor.ndim for tensor in call.tensors), strict=True))
    axes: dict[str, list[int]] = {}
    for name, axis, _ in free_sizes:
        if axis >= ranks.get(name, 0):
            known = ", ".join(f"{known} of {rank} dimensions" for known, rank in ranks.items())
            what = f"there is no dimension {axis} of an input {name!r}"
            raise InputError(what, where="Options.free_sizes", fix=f"there are {known}")
        axes.setdefault(name, []).append(axis)
    return axes


def _fixed(
    exported: torch.export.ExportedProgram, call: Call, free_sizes: Sequence[tuple[str, int, str]]
) -> list[tuple[str, int, str]]:
    """Those sizes that the tracer found to be numbers."""
    shapes = _shapes(exported, call)
    return [entry for entry in free_sizes if not _is_open(shapes[entry[0]][entry[1]])]


def _fixed_fronts(exported: torch.export.ExportedProgram, call: Call) -> set[str]:
    """Inputs whose leading size was to stay free, and that the tracer found to be a number."""
    fronts = {name: shape[0] for name, shape in _shapes(exported, call).items() if len(shape)}
    return {name for name, size in fronts.items() if isinstance(size, torch.SymInt) and not _is_open(size)}


def _shapes(exported: torch.export.ExportedProgram, call: Call) -> dict[str, torch.Size]:
    inputs = set(exported.graph_signature.user_inputs)
    values = [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder") if node.name in inputs]
    return dict(zip(call.names, (value.shape for value in values), strict=True))


def _is_open(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _given(call: Call) -> str:
    """The types of what came instead."""
    kinds = dict.fromkeys(type(value).__name__ for _, value in call.constants)
    return f", but {', '.join(kinds)}" if kinds else ""


def _double_single_batch(call: Call) -> Call:
    if call.shared_batch() != 1:
        return call
    doubled = tuple(torch.cat([t, t]) if t.ndim and t.shape[0] == 1 else t for t in call.tensors)
    return dataclasses.replace(call, tensors=doubled)


def _extra_guards(exported: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Guards beyond «these two sizes are equal», which shared symbols already say."""
    guards = getattr(exported, "_guards_code", None) or ()
    return tuple(g for g in guards if not (g.count("==") == 1 and g.count(".size()[") == 2 and "%" not in g))


def _submodules_of(graph_module: fx.GraphModule) -> nn.Module:
    """Only what other higher-order operators call; no parameter stands in a captured graph."""
    root = nn.Module()
    for name, child in graph_module.named_children():
        root.add_module(name, child)
    return root
