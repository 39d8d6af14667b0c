"""Model and example inputs to one flat ATen graph, its weights as placeholders.

The model is wrapped so that the tracer sees flat tensors: pytrees are taken apart and put together here, which lets
any dataclass, dict or tuple be an input or an output. Regions that the model runs under `torch.no_grad` are inlined,
and every node says in ``meta["grad_enabled"]`` under which mode it was captured.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import traceback
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec
from torch.fx._lazy_graph_module import _use_lazy_graph_module

from laser_fx.call import Call, path_name, register_dataclasses
from laser_fx.cut_structured import cut_structured, refuse_shared_writes
from laser_fx.errors import CaptureError, InputError, LaserError, NonFiniteError
from laser_fx.events import untold
from laser_fx.inline_regions import inline_regions
from laser_fx.nodes import GRAD_ENABLED, code_line, is_mutating
from laser_fx.progress import stage
from laser_fx.structured import tracing_once
from laser_fx.unseen import refuse_unseen_gradients, unassigned

__all__ = ["GRAD_ENABLED", "Captured", "capture", "check_finite", "is_mutating"]

_MODEL = "model"
_NO_TENSOR = "pass at least one tensor: torch.from_numpy(array) makes one of an array"
LITERAL = "lifted_tensor"
"""Part of the placeholder's name of a ``torch.tensor(…)`` in the model's code."""
_TRACER = "torch._subclasses.fake_tensor"
"""A logger: torch logs the traceback of what it cannot trace there, and raises it besides."""
_HERE = f"{Path(__file__).parent}/"


@dataclass(frozen=True)
class Captured:
    """One forward call as a graph.

    Args:
        graph_module: placeholders are weights, buffers and constants, then tensor inputs; returns a flat tuple.
        states: placeholder → name of the parameter or buffer in the model's state.
        constants: placeholder → tensor that the model's code made.
        inputs: placeholders of the tensor inputs, in order.
        call: the example call; its leading sizes are doubled where the caller gave a batch of one.
        guards: whether the graph holds for the captured sizes only, though a dimension looks dynamic.
        output_leaves: for each output leaf an index into the graph's outputs, or a constant.
        output_spec: the tree of the model's output.
        mutations: names of buffers that the leading outputs are copied back into.
        grad_enabled: whether gradients were on.
    """

    graph_module: fx.GraphModule
    states: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    call: Call
    guards: tuple[str, ...]
    output_leaves: tuple[tuple[int | None, Any], ...]
    output_names: tuple[str, ...]
    output_spec: pytree.TreeSpec
    mutations: tuple[str, ...]
    grad_enabled: bool

    @property
    def dynamic(self) -> bool:
        """Whether the shared leading dimension is free."""
        return any(isinstance(size, torch.SymInt) for val in self.input_values() for size in val.shape)

    def input_values(self) -> tuple[Tensor, ...]:
        """The fake tensors of the inputs; a free dimension is a SymInt."""
        by_name = {node.name: node.meta["val"] for node in self.graph_module.graph.find_nodes(op="placeholder")}
        return tuple(by_name[name] for name in self.inputs)

    def fixed_sizes(self, free_sizes: Sequence[tuple[str, int, str]]) -> list[str]:
        """Names of the sizes that were to stay free, and are what they were in the example: the model needs them so."""
        shapes = dict(zip(self.call.names, (value.shape for value in self.input_values()), strict=True))
        return [size for name, axis, size in free_sizes if isinstance(shapes[name][axis], int)]

    def accepts(self, call: Call) -> bool:
        """Whether this graph answers that call: same tree, constants, dtypes, devices, and sizes it holds for."""
        if call.spec != self.call.spec or call.constants != self.call.constants:
            return False
        bound: dict[str, int] = {}
        return all(
            self._accepts_tensor(actual, value, example, bound)
            for actual, value, example in zip(call.tensors, self.input_values(), self.call.tensors, strict=True)
        )

    def _accepts_tensor(self, actual: Tensor, value: Tensor, example: Tensor, bound: dict[str, int]) -> bool:
        if (actual.dtype, actual.device, actual.ndim) != (example.dtype, example.device, example.ndim):
            return False
        if dense_order(actual) != dense_order(example) or (
            self.grad_enabled and actual.requires_grad != example.requires_grad
        ):
            return False
        for size, captured, exact in zip(actual.shape, value.shape, example.shape, strict=True):
            free = isinstance(captured, torch.SymInt) and not self.guards
            # 0 and 1 are specialised by torch: a graph of a free size is known to hold from 2 on.
            if not free and size != exact:
                return False
            if free and (size < 2 or bound.setdefault(str(captured), size) != size):
                return False
        return True

    def rebuild_outputs(self, values: Sequence[Any]) -> Any:
        """The model's output, from the graph's outputs with the mutated buffers taken off."""
        leaves = [constant if index is None else values[index] for index, constant in self.output_leaves]
        return pytree.tree_unflatten(leaves, self.output_spec)


def dense_order(tensor: Tensor) -> tuple[int, ...] | None:
    """How the dimensions lie in memory, longest stride first; None for a contiguous tensor.

    A trace leaves out ``contiguous()`` where its example is contiguous.

    >>> dense_order(torch.ones(2, 3)), dense_order(torch.ones(2, 3).mT)
    (None, (1, 0))
    """
    if tensor.is_contiguous():
        return None
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension]))


class _OutputTree:
    """The tree of the model's output, and the attributes that forward assigned, noted while it is traced."""

    spec: pytree.TreeSpec
    leaves: tuple[tuple[int | None, Any], ...]
    names: tuple[str, ...]
    assigned: list[str]

    def flatten(self, result: Any) -> tuple[Tensor, ...]:
        paths, self.spec = pytree.tree_flatten_with_path(result)
        tensors = [(path, leaf) for path, leaf in paths if isinstance(leaf, Tensor)]
        position = iter(range(len(tensors)))
        self.leaves = tuple((next(position), None) if isinstance(x, Tensor) else (None, x) for _, x in paths)
        self.names = tuple(path_name(path) or "output" for path, _ in tensors)
        return tuple(leaf for _, leaf in tensors)

    def holds_sizes(self) -> bool:
        """Whether a free size is itself part of the output."""
        return any(isinstance(constant, torch.SymInt) for _, constant in self.leaves)


class _Flat(nn.Module):
    """The model behind flat tensor inputs and outputs."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self._call = call
        # torch.export restores a module's attributes after tracing, so the tree is noted in an object beside it.
        self.outputs = _OutputTree()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self._call.rebuild(tensors)
        with unassigned(self.model) as self.outputs.assigned:
            result = self.model(*args, **kwargs)
        register_dataclasses(result)
        return self.outputs.flatten(result)


@stage("tracing the model")
def capture(
    model: nn.Module,
    call: Call,
    *,
    grad_enabled: bool,
    dynamic: bool = True,
    free_sizes: Sequence[tuple[str, int, str]] = (),
) -> Captured:
    """Capture one forward call of ``model`` in its present mode.

    Args:
        model: any module that `torch.export.export(strict=False)` takes.
        call: example inputs; a leading size of one is doubled, since torch specialises it.
        grad_enabled: whether gradients are on at the model's door.
        dynamic: leave the shared leading dimension free.
        free_sizes: input, dimension and name of other sizes to leave free, where the model's code allows that.

    Raises:
        CaptureError: torch.export refuses the model; the message names the line of the model's code.
        InputError: the model itself fails on the inputs.
    """
    if not call.tensors:
        raise InputError(f"the call has no tensor input{_given(call)}", where="example_inputs", fix=_NO_TENSOR)
    example = _double_single_batch(call) if dynamic else call
    flat = _Flat(model, example)
    try:
        exported = _export(flat, example, grad_enabled, dynamic, _axes(example, free_sizes))
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
    inputs = set(exported.graph_signature.user_inputs)
    values = [node.meta["val"] for node in exported.graph.find_nodes(op="placeholder") if node.name in inputs]
    shapes = dict(zip(call.names, (value.shape for value in values), strict=True))
    return [entry for entry in free_sizes if not _is_open(shapes[entry[0]][entry[1]])]


def _is_open(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and bool(size.node.expr.free_symbols)


def _export(
    flat: _Flat, call: Call, grad_enabled: bool, dynamic: bool, axes: Mapping[str, list[int]]
) -> torch.export.ExportedProgram:
    batch = call.shared_batch() if dynamic else None
    shapes = tuple(
        dict.fromkeys([*([0] if t.ndim and t.shape[0] == batch else []), *axes.get(name, [])], torch.export.Dim.AUTO)
        or None
        for name, t in zip(call.names, call.tensors, strict=True)
    )
    tensors = tuple(_as_leaf(t, grad_enabled) for t in call.tensors)
    try:
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad_enabled),
            warnings.catch_warnings(),
            untold(_TRACER),
            # torch writes the whole graph out as Python code at every switch of the grad mode; nobody reads that code.
            _use_lazy_graph_module(True),
        ):
            warnings.simplefilter("ignore")
            with tracing_once(), refuse_unseen_gradients() if grad_enabled else nullcontext():
                exported = torch.export.export(flat, tensors, dynamic_shapes=(shapes,), strict=False)
            if not grad_enabled and _is_mutating(exported.graph_module):
                refuse_shared_writes(exported.graph_module)
                exported = exported.run_decompositions({})
    except LaserError:
        raise
    except Exception as error:
        raise _refusal(flat, call, grad_enabled, error) from error
    return exported


def _as_leaf(tensor: Tensor, grad_enabled: bool) -> Tensor:
    """An input as the tracer takes it: with no history, and not of inference mode."""
    with torch.inference_mode(False):
        leaf = tensor.clone() if tensor.is_inference() else tensor.detach()
        return leaf.requires_grad_(tensor.requires_grad and grad_enabled)


def _refusal(flat: _Flat, call: Call, grad_enabled: bool, error: Exception) -> CaptureError | InputError:
    """Tell inputs that the model itself rejects from a model that the tracer rejects."""
    where = _line_of_model(error)
    if (known := _capture_error_behind(error)) is not None:
        return CaptureError(known.what, where=where, fix=known.fix)
    try:
        # On a copy, from a copy of the random state: a model that is refused runs as it is afterwards.
        with torch.set_grad_enabled(grad_enabled), torch.random.fork_rng():
            _Flat(copy.deepcopy(flat.model), call)(*call.tensors)
    except Exception as eager:
        return InputError(
            f"the model fails on these inputs: {_first_line(eager)}",
            where=_line_of_model(eager) or where,
            fix="pass inputs that the model's forward accepts",
        )
    return CaptureError(
        f"torch.export cannot trace the model as one graph: {_first_line(error)}",
        where=where,
        fix="remove the branch or the Python value that depends on tensor data (torch.where instead of if), or compile"
        " the part of the model that has none",
    )


def _capture_error_behind(error: BaseException | None) -> CaptureError | None:
    while error is not None and not isinstance(error, CaptureError):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _line_of_model(error: BaseException) -> str | None:
    """``file:line: code`` of the innermost frame that is neither torch's nor ours."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if not _is_inner(f.filename)]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
        seen = seen.__cause__
    return None


def _is_inner(file: str) -> bool:
    """Whether a file is torch's, generated, or ours; the models of the zoo are models like any other."""
    ours = file.startswith(_HERE) and not file.startswith(f"{_HERE}zoo")
    return ours or file.startswith((str(Path(torch.__file__).parent), "<"))


def _is_mutating(graph_module: fx.GraphModule) -> bool:
    return any(map(is_mutating, graph_module.graph.nodes))


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
