"""A program as one ONNX model in memory: inputs, weights, stitched levels, names, metadata."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from torch import Tensor, fx

from laser_fx.errors import ExportError, OptionError
from laser_fx.export import functions
from laser_fx.export.bodies import call_bodies
from laser_fx.export.counters import counts_steps, refuse_counted
from laser_fx.export.early_exit import Halting, leave_early
from laser_fx.export.hoist import hoist_invariants
from laser_fx.export.metadata import PRODUCER, Depth, FileMetadata, package_version
from laser_fx.export.randomness import refuse_random
from laser_fx.export.size_conditions import conditions_of
from laser_fx.export.source import Exportable
from laser_fx.export.stitch import Stitcher, own_values, value_like
from laser_fx.export.straight import loop_of, results_of
from laser_fx.export.told import describe_nodes
from laser_fx.export.translate import translate
from laser_fx.progress import stage
from laser_fx.rolled import RolledLoop

__all__ = ["FIDELITY", "Form", "build"]

Form = Literal["rolled", "functions", "unrolled"]
FIDELITY = "fidelity"
"""Placeholder of the threshold in a tracked graph."""

_IR_VERSION = 10
_SYMBOL = re.compile(r"[su]\d+")
_OURS = re.compile(r"fidelity|depth(_loop_\w+)?|halt_above|(constant|step)_\d+|front|laser\..*|loop_\d.*")
"""Names of optional inputs and of constants: two initializers of one name would be one."""


@dataclass(frozen=True)
class _Inputs:
    """The values that the placeholders of the top level stand for."""

    values: list[ir.Value | None]
    user: list[ir.Value]
    fidelity: ir.Value | None


@stage("translating to ONNX")
def build(
    program: Exportable, form: Form, *, depth_inputs: bool, opset: int, halt: Halting | None = None
) -> tuple[ir.Model, FileMetadata]:
    """The ONNX model of a program, and what it says about itself.

    Raises:
        OptionError: the output of ``halt`` says nothing of each example, or two sizes that differ have one name.
        ExportError: something in the graph has no ONNX, or draws random numbers.
    """
    module = program.captured if form == "unrolled" else program.graph_module
    refuse_random(module)
    inputs = _inputs(program, module)
    is_free = depth_inputs and counts_steps(program) is None
    depths = _depths(module, taken=set(program.input_names)) if is_free else ()
    trips = {depth.loop: _optional_input(depth.input, np.array(depth.default, np.int64)) for depth in depths}
    stitcher = Stitcher(partial(translate, opset=opset), trips)
    nodes, results = stitcher.level(module, inputs.values)
    outputs, copies = own_values(results, set(), nodes, "")
    optional = [value for value in (inputs.fidelity, *trips.values()) if value is not None]
    graph = ir.Graph(
        [*inputs.user, *optional],
        outputs,
        nodes=[*nodes, *copies],
        initializers=[*_used(inputs.values, inputs.user), *stitcher.constants, *trips.values()],
        opset_imports={**stitcher.opset_imports, "": opset, functions.DOMAIN: functions.VERSION},
        name="laser_fx",
    )
    named = _name_outputs(program, module, outputs, {str(value.name) for value in graph.inputs})
    metadata = _metadata(program, form, depths, inputs.fidelity, named)
    metadata = dataclasses.replace(metadata, conditions=conditions_of(program, inputs.user))
    model = ir.Model(
        graph,
        ir_version=_IR_VERSION,
        producer_name=PRODUCER,
        producer_version=package_version(),
        functions=[*stitcher.functions.values(), *functions.all_functions(opset)],
    )
    common.RemoveUnusedNodesPass()(model)
    hoist_invariants(model.graph)
    metadata = _without_removed_loops(metadata, model)
    if halt is not None:
        refuse_counted(program)
        metadata = leave_early(graph, module, metadata, halt)
    if form == "functions":
        call_bodies(model)
    _clean(model)
    describe_nodes(model, program)
    model.metadata_props.update(metadata.to_properties())
    return model, metadata


def _inputs(program: Exportable, module: fx.GraphModule) -> _Inputs:
    readable = dict(zip(program.user_inputs, program.input_names, strict=True))
    weights, names = program.weights, _weight_names(program)
    placeholders = module.graph.find_nodes(op="placeholder")
    rename = _symbol_names(program, module)
    stored: dict[tuple[Any, ...], ir.Value] = {}
    by_name: dict[str, ir.Value] = {}
    for node in placeholders:
        if node.name in readable:
            by_name[node.name] = _renamed(value_like(node.meta["val"], readable[node.name]), rename)
        elif node.name in weights:
            by_name[node.name] = _weight(names.get(node.name, node.name), weights[node.name], stored)
        elif node.name == FIDELITY:
            name = _free(FIDELITY, set(program.input_names))
            by_name[node.name] = _optional_input(name, np.array(program.options.fidelity, np.float32))
        else:
            raise ExportError("a placeholder has no value", where=node.name, fix="report this graph as a defect")
    user = [by_name[name] for name in program.user_inputs]
    return _Inputs([by_name[node.name] for node in placeholders], user, by_name.get(FIDELITY))


def _weight_names(program: Exportable) -> dict[str, str]:
    """The names that people know weights by, beside those of inputs and outputs, and of what a file is made of."""
    taken = {*program.input_names, *program.output_names, *(program.weights.keys() - program.weight_names.keys())}
    names = {}
    for placeholder, name in program.weight_names.items():
        while name in taken or _OURS.fullmatch(name):
            name = f"weight.{name}"
        taken.add(name)
        names[placeholder] = name
    return names


def _weight(name: str, tensor: Tensor, stored: dict[tuple[Any, ...], ir.Value]) -> ir.Value:
    """An initializer; weights that share storage, shape and strides are one."""
    key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
    if key not in stored:
        value = value_like(tensor, name)
        value.const_value = ir.tensor_adapters.TorchTensor(tensor.detach().cpu().contiguous(), name=name)
        stored[key] = value
    return stored[key]


def _optional_input(name: str, default: np.ndarray[Any, Any]) -> ir.Value:
    """An input with an initializer of the same name: its value where the caller gives none."""
    tensor = ir.tensor(default, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(default.shape), const_value=tensor)


def _used(values: list[ir.Value | None], user: list[ir.Value]) -> list[ir.Value]:
    """Weights that something reads, each once, and the default of the fidelity."""
    distinct = dict.fromkeys(value for value in values if value is not None and value.const_value is not None)
    return [value for value in distinct if value not in user and (value.uses() or value.name == FIDELITY)]


def _depths(module: fx.GraphModule, taken: set[str]) -> tuple[Depth, ...]:
    """Outermost loops whose steps are alike: values that differ by step, or tensors of all steps, fix the depth."""
    calls = [(node, loop) for node in module.graph.nodes if (loop := loop_of(node)) is not None]
    fixed = [loop for _, loop in calls if loop.per_step_count or loop.stacked_count or loop.stacked_outputs]
    free = [(node, loop) for node, loop in calls if loop not in fixed]
    return tuple(
        Depth(_free("depth" if len(calls) == 1 else f"depth_{loop.name}", taken), loop.name, loop.trip_count, least)
        for node, loop in free
        for least in [_least_depth(node, loop)]
    )


def _least_depth(call: fx.Node, loop: RolledLoop) -> int:
    """Trips that every step that is read one by one needs."""
    lists = [user for user in call.users if int(user.args[1]) >= loop.carry_count]  # type: ignore[arg-type]
    indices = [int(user.args[1]) for whole in lists for user in whole.users if user.op == "call_function"]  # type: ignore[arg-type]
    return max([1, *(index + 1 if index >= 0 else -index for index in indices)])


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"laser.{name}"
    return name


def _symbol_names(program: Exportable, module: fx.GraphModule) -> dict[str, str]:
    """The symbol of the leading dimension is called ``batch``, others as the options name them."""
    readable = dict(zip(program.user_inputs, program.input_names, strict=True))
    placeholders = module.graph.find_nodes(op="placeholder")
    shapes = {readable[p.name]: p.meta["val"].shape for p in placeholders if p.name in readable}
    leading = {str(shape[0]) for shape in shapes.values() if len(shape)}
    symbols = [size for size in leading if _SYMBOL.fullmatch(size)]
    names = {str(shapes[name][axis]): size for name, axis, size in program.options.open_sizes}
    named = {symbol: name for symbol, name in names.items() if _SYMBOL.fullmatch(symbol)}
    named |= {symbols[0]: "batch"} if len(symbols) == 1 else {}
    for name in named.values():  # a runtime takes sizes of one name to be equal
        if list(named.values()).count(name) > 1:
            raise OptionError(
                f"two sizes that differ are called {name!r}",
                where="Options.free_sizes",
                fix="name one of them otherwise",
            )
    return named


def _renamed(value: ir.Value, names: dict[str, str]) -> ir.Value:
    assert value.shape is not None
    value.shape = ir.Shape([size if isinstance(size, int) else _with(str(size.value), names) for size in value.shape])
    return value


def _with(expression: str, names: dict[str, str]) -> str:
    return re.sub(r"[su]\d+", lambda found: names.get(found.group(), found.group()), expression)


def _name_outputs(
    program: Exportable, module: fx.GraphModule, outputs: list[ir.Value], taken: set[str]
) -> list[tuple[str, str]]:
    """Readable name and value name of each output; they differ where an input has the name already."""
    names = [*program.output_names, *(f"stats.{key}" for key in program.record_names)]
    rename = _symbol_names(program, module)
    named = []
    for readable, value, result in zip(names, outputs, results_of(module), strict=False):
        name = readable
        while name in taken:
            name = f"output.{name}"
        taken.add(name)
        value.name = name
        _shape_output(value, result.meta.get("val"), rename)
        named.append((readable, name))
    return named


def _shape_output(value: ir.Value, like: Any, rename: dict[str, str]) -> None:
    """Type and shape of an output; the steps of a recorded list are open dimensions in front."""
    steps = 0
    while isinstance(like, list | tuple):
        like, steps = like[0], steps + 1
    if isinstance(like, Tensor):
        value.type = value_like(like, "").type
        sizes = [size if type(size) is int else _with(str(size), rename) for size in like.shape]
        value.shape = ir.Shape([*[None] * steps, *sizes])


def _metadata(
    program: Exportable, form: Form, depths: tuple[Depth, ...], fidelity: ir.Value | None, named: list[tuple[str, str]]
) -> FileMetadata:
    count = len(program.output_names)
    rolled = form != "unrolled"
    levels = program.nest.trips()
    loops = [
        {"name": loop.name, "level": at[0], "trips": at[1]}
        for loop, at in zip(program.nest.walk(), levels, strict=True)
    ]
    records = zip(program.record_names, (value for _, value in named[count:]), strict=False)
    return FileMetadata(
        form=form,
        inputs=tuple(program.input_names),
        outputs=tuple(named[:count]),
        records=tuple(records),
        depths=depths,
        fidelity=None if fidelity is None else fidelity.name,
        loops=tuple(loops) if rolled else (),
        sites=tuple(dataclasses.asdict(site) for site in program.sites) if rolled else (),
        options=dataclasses.asdict(program.options),
        signature=program.signature,
        input_tree=program.input_tree,
        output_tree=program.output_tree,
    )


def _without_removed_loops(metadata: FileMetadata, model: ir.Model) -> FileMetadata:
    """A loop that nothing reads is not written: the file must not tell of it."""
    written = {str(node.name).rpartition("/")[2] for node in model.graph.all_nodes() if node.op_type == "Loop"}
    kept = tuple(loop for loop in metadata.loops if loop["name"] in written)
    return dataclasses.replace(metadata, loops=kept)


def _clean(model: ir.Model) -> None:
    """Order, unique names, nothing unused. No pass here changes a number."""
    passes: tuple[Any, ...] = (
        common.TopologicalSortPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )
    for step in passes:
        step(model)
