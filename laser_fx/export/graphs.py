"""Walks through an ONNX model as it was read: graphs inside graphs, functions, tensors wherever they hide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

__all__ = ["graphs", "main_nodes", "nodes", "tensors"]


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """Every graph of a model: the main one, bodies of its nodes, bodies in functions."""
    yield from _below(model.graph)
    for function in model.functions:
        for inner in _inside(function.node):
            yield from _below(inner)


def main_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Nodes of the main graph and of the bodies in it; those of functions not."""
    for graph in _below(model.graph):
        yield from graph.node


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, those of functions too."""
    for graph in graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored, as an initializer or as an attribute."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    for node in nodes(model):
        yield from node.attribute
    for function in model.functions:
        yield from function.attribute_proto


def _below(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    pending = [graph]
    while pending:
        here = pending.pop()
        yield here
        pending += list(_inside(here.node))[::-1]


def _inside(found: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in found:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs
