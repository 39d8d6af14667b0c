"""The ONNX files that the parts share, each written once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import inliner
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass
from torch import nn

import laser_fx
from benchmarks.deploy.cases import Size
from benchmarks.deploy.records import Missing
from laser_fx import CompiledModel
from laser_fx.errors import LaserError

__all__ = ["File", "Files", "count_nodes", "exact"]


@dataclass(frozen=True)
class File:
    """An ONNX file and what it took to make. Seconds are CPU seconds.

    Args:
        nodes: those of subgraphs and of functions counted once.
        compile_seconds: capture and passes; 0 where another tool made the file.
        export_seconds: from there to the file.
    """

    path: str
    nodes: int
    bytes: int
    compile_seconds: float
    export_seconds: float

    @property
    def seconds(self) -> float:
        """From the model to the file."""
        return self.compile_seconds + self.export_seconds


class Files:
    """Makes files in a folder, and keeps them with their figures beside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._refused: dict[str, str] = {}

    def exported(self, name: str, compiled: Callable[[], CompiledModel], **options: Any) -> File:
        """What laser-fx writes for a model; `compiled` compiles it."""
        return self._once(name, lambda path: _exported(path, compiled, options))

    def rolled(self, size: Size, steps: int = 16) -> File:
        """Loops, with the depth as an input."""
        return self.exported(f"{size.name}-rolled-{steps}", lambda: exact(size.looped(steps), size))

    def functions(self, size: Size, steps: int) -> File:
        """A call of a function for every step of every loop."""
        name = f"{size.name}-functions-{steps}"
        return self.exported(name, lambda: exact(size.looped(steps), size), form="functions")

    def step(self, size: Size) -> File:
        """One supervision step; a host repeats it."""
        return self.exported(f"{size.name}-step", lambda: exact(size.solve(4), size), form="step")

    def unrolled(self, size: Size, steps: int) -> File:
        """The functions written out."""

        def make(path: Path) -> File:
            began = time.process_time()
            written = written_out(onnx.load(self.functions(size, steps).path))
            path.write_bytes(written.SerializeToString())
            took = time.process_time() - began
            return File(str(path), count_nodes(written), path.stat().st_size, 0.0, took)

        return self._once(f"{size.name}-unrolled-{steps}", make)

    def by_torch(self, size: Size, steps: int) -> File:
        """What `torch.onnx.export` writes."""
        return self._once(f"{size.name}-torch-{steps}", lambda path: _by_torch(path, size, steps))

    def _once(self, name: str, make: Callable[[Path], File]) -> File:
        path, beside = self.folder / f"{name}.onnx", self.folder / f"{name}.json"
        if name in self._refused:
            raise Missing(self._refused[name])
        if beside.exists():
            return File(**json.loads(beside.read_text(encoding="utf-8")))
        try:
            made = make(path)
        except (LaserError, TypeError) as error:  # a form or an option that this version does not have
            self._refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise Missing(self._refused[name]) from error
        beside.write_text(json.dumps(asdict(made)), encoding="utf-8")
        return made


def exact(model: nn.Module, size: Size) -> CompiledModel:
    """The model compiled without changing a number."""
    return laser_fx.compile(model, (torch.from_numpy(size.inputs(2)),), options=laser_fx.Options.exact())


def _exported(path: Path, compiled: Callable[[], CompiledModel], options: dict[str, Any]) -> File:
    began = time.process_time()
    model = compiled()
    ready = time.process_time()
    written = model.to_onnx(path, overwrite=True, **{"verify": False, **options})
    return File(str(path), written.nodes, written.bytes, ready - began, time.process_time() - ready)


def _by_torch(path: Path, size: Size, steps: int) -> File:
    model, inputs = size.solve(steps), torch.from_numpy(size.inputs(2))
    batch = torch.export.Dim("batch")
    began = time.process_time()
    program = torch.onnx.export(model, (inputs,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False)
    assert program is not None
    program.save(str(path))
    took = time.process_time() - began
    return File(str(path), count_nodes(onnx.load(path)), path.stat().st_size, 0.0, took)


def written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of functions without them, as good as a tracer would write it.

    Nodes that compute the same are one, and the open dimension has its name everywhere, as torch's exporter writes it:
    without the name ONNX Runtime takes eight times as long to open the file.
    """
    inlined = inliner.inline_local_functions(model)
    del inlined.metadata_props[:]
    for value in inlined.graph.value_info:
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value") and not size.dim_param:
                size.dim_param = "batch"
    merged = ir.from_proto(inlined)
    for change in (CommonSubexpressionEliminationPass(), RemoveUnusedNodesPass()):
        change(merged)
    return ir.to_proto(merged)


def count_nodes(model: onnx.ModelProto) -> int:
    """Nodes of a model, those of subgraphs and functions included."""
    return _count(model.graph.node) + sum(_count(function.node) for function in model.functions)


def _count(nodes: Any) -> int:
    below = (attribute.g for node in nodes for attribute in node.attribute if attribute.g.node)
    return len(nodes) + sum(_count(graph.node) for graph in below)
