"""Copies what came of a graph that was translated before: the matrix writes most bodies many times."""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any

import onnx_ir as ir
from torch import Tensor, fx

from laser_fx.export import build
from laser_fx.export.straight import hint
from laser_fx.export.translate import translate
from laser_fx.marks import MARK

__all__ = ["translate_once"]


@functools.cache
def translate_once() -> None:
    """Keep what was translated: it depends on the graph, its names, sizes, modules, sites, code, and the opset."""
    kept: dict[Hashable, ir.Model] = {}

    def translated(straight: fx.GraphModule, opset: int) -> ir.Model:
        key = (_written(straight), opset)
        if key not in kept:
            if len(kept) > 200:
                kept.clear()
            kept[key] = translate(straight, opset)
        return kept[key].clone()

    build.translate = translated  # type: ignore[attr-defined]


def _written(straight: fx.GraphModule) -> Hashable:
    """All that the exporter reads of a graph; one with constants of its own is equal to no other."""
    return tuple(_node(node) for node in straight.graph.nodes)


def _node(node: fx.Node) -> Hashable:
    called = node.op, str(node.target), node.name, repr(node.args), repr(node.kwargs)
    stack, mark, code = (repr(node.meta.get(key)) for key in ("nn_module_stack", MARK, "stack_trace"))
    known = _value(node.meta.get("val")), stack, mark, code
    return called, known, object() if node.op == "get_attr" else None


def _value(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.dtype, value.device, tuple((str(size), hint(size)) for size in value.shape), value.requires_grad
    return tuple(map(_value, value)) if isinstance(value, (tuple, list)) else str(value)
