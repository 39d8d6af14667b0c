"""Translates a straight-line graph to ONNX with torch's exporter; `laser::` operators become calls of functions."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from laser_fx.errors import ExportError
from laser_fx.export import folded_functions, functions
from laser_fx.export.repair import make_vectors_columns
from laser_fx.export.simplify import simplify
from laser_fx.export.straight import example
from laser_fx.export.told import exported_name, hand_sites_on, sites_by_name

__all__ = ["translate"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_FX_NODE = "pkg.torch.onnx.fx_node"
_HOOK = "_empty_nn_module_stack"  # what torch writes where it knows no module
_MODEL = "model"  # what a capture calls the user's model


def translate(straight: fx.GraphModule, opset: int) -> ir.Model:
    """A straight-line graph as an ONNX model, its tensors of any origin as inputs in order.

    Args:
        straight: a graph without loops, whose placeholders have fake tensors in ``meta["val"]``.
        opset: version of the ONNX operators.

    Raises:
        ExportError: an operator that ONNX does not have, or a training graph.
    """
    _refuse_training(straight)
    hand_sites_on(straight)
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                _exported(straight),
                dynamo=True,
                custom_translation_table=_table(),
                opset_version=opset,
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise ExportError(
                f"torch cannot translate the graph: {_first_line(_root(error))}",
                where=_node_of(error),
                fix="replace the operator in the model by one that torch.onnx knows",
            ) from error
    assert program is not None  # it is None only for the legacy exporter
    make_vectors_columns(program.model)
    simplify(program.model)
    sites = {} if program.exported_program is None else sites_by_name(program.exported_program.graph)
    for node in program.model.graph.all_nodes():
        told = sites.get(exported_name(node.metadata_props.get(_FX_NODE, "")), {})
        _name_after_module(node)
        node.metadata_props.update(told)
    return program.model


class _Interpreted(nn.Module):
    """Runs a graph node by node, so that tracing it again keeps each node's module path and name."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module

    def forward(self, *arguments: Tensor) -> Any:
        with fx.traceback.preserve_node_meta():
            return fx.Interpreter(self.graph_module).run(*arguments)


def _exported(straight: fx.GraphModule) -> torch.export.ExportedProgram:
    values = [node.meta["val"] for node in straight.graph.find_nodes(op="placeholder")]
    dynamic = (tuple(_dynamic(value) for value in values),) if values else ()
    arguments = tuple(example(value) for value in values)
    return torch.export.export(_Interpreted(straight), arguments, dynamic_shapes=dynamic, strict=False)


def _dynamic(value: Tensor) -> dict[int, Any] | None:
    sizes = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(value.shape) if type(size) is not int}
    return sizes or None


def _table() -> dict[Callable[..., Any], Callable[..., Any]]:
    laser = torch.ops.laser
    return {
        laser.track.default: functions.call_track,
        laser.reset.default: functions.call_reset,
        laser.fold.default: folded_functions.call_fold,
        laser.folded_linear.default: folded_functions.call_folded_linear,
        laser.output_linear.default: folded_functions.call_output_linear,
    }


def _refuse_training(straight: fx.GraphModule) -> None:
    unexportable = {torch.ops.laser.linear.default, torch.ops.laser.spectrum.default}
    for node in straight.graph.nodes:
        if node.target in unexportable:
            raise ExportError(
                f"{node.target} belongs to a training graph", where=node.name, fix="call .eval() before the export"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of packages that it does not need here, and of itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _name_after_module(node: ir.Node) -> None:
    """``trm.inner.lm_head/linear/MatMul``: the innermost module, the traced call in it, the operator."""
    node.name = readable_name(ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")), node.op_type)
    node.metadata_props.clear()
    node.doc_string = None


def readable_name(scopes: Sequence[str], op_type: str) -> str:
    """A name for people, from the scopes that torch's exporter writes: modules from the outside in, then the call.

    >>> readable_name(["", "model", "model.trm", "model.trm.lm_head", "linear"], "MatMul")
    'trm.lm_head/linear/MatMul'
    """
    modules = [scope for scope in scopes[:-1] if scope and not scope.startswith(_HOOK)]
    innermost = modules[-1].removeprefix(_MODEL).removeprefix(".") if modules else ""
    return "/".join(part for part in (innermost, *scopes[-1:], op_type) if part)


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def _node_of(error: BaseException | None) -> str | None:
    """The line of the exporter's messages that names the node."""
    while error is not None:
        text = _first_line(error)
        if text.startswith("Error when translating node "):
            return text.removeprefix("Error when translating node ").split(" See the stack")[0]
        error = error.__cause__
    return None
