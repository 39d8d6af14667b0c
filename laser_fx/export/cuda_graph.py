"""A branch-free file as one CUDA graph: captured once for each set of shapes, replayed without launching a kernel.

A captured graph reads and writes fixed addresses. Inputs are copied to them on the GPU, answers copied from them, so
that a caller may keep what it was given; nothing passes through the host.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor

from laser_fx.errors import InputError, OptionError
from laser_fx.export.bind import as_ort_value, run_bound
from laser_fx.export.graphs import nodes
from laser_fx.export.providers import CUDA, CUDA_GRAPH, Provider, name_of

__all__ = ["CudaGraphs", "check_branch_free", "with_cuda_graph"]

MOST_SHAPES = 16
"""A captured graph keeps its memory: more sets of shapes than these run without one."""

_BRANCHES = ("Loop", "If", "Scan")
_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"


def check_branch_free(model: onnx.ModelProto, where: str) -> None:
    """Refuse a graph that reads a condition on the host.

    Raises:
        OptionError: naming the node.
    """
    for node in nodes(model):
        if node.op_type in _BRANCHES:
            raise OptionError(
                f"a CUDA graph has no branches, but {node.name!r} is a {node.op_type}",
                where=where,
                fix="leave cuda_graph out, or export with Options.exact() and form='functions' or 'step'",
            )


def with_cuda_graph(providers: Sequence[Provider] | None) -> list[Provider]:
    """The providers to open a session with, CUDA told to capture.

    Raises:
        OptionError: CUDA is not among them.
    """
    asked: list[Provider] = [CUDA] if providers is None else list(providers)
    if CUDA not in map(name_of, asked):
        raise OptionError("cuda_graph needs CUDA", where="providers", fix=f"pass providers=[{CUDA!r}], or None")
    return [
        (CUDA, {**({} if isinstance(p, str) else p[1]), CUDA_GRAPH: "1"}) if name_of(p) == CUDA else p for p in asked
    ]


@dataclass(frozen=True)
class _Captured:
    inputs: Mapping[str, Tensor]
    outputs: Sequence[Tensor]
    binding: Any
    options: Any


class CudaGraphs:
    """The captured graphs of a session, by the shapes of its inputs; one call at a time."""

    def __init__(self, runtime: Any, session: Any) -> None:
        self._runtime, self._session = runtime, session
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._lock = threading.Lock()

    def run(self, feed: Mapping[str, Any], outputs: Sequence[str]) -> list[Tensor]:
        """Replay, or capture first.

        Args:
            feed: inputs by name, all of them CUDA tensors of one device.
            outputs: value names, in the order of the result.

        Raises:
            InputError: an input is not on the GPU.
        """
        for name, value in feed.items():
            if not (isinstance(value, Tensor) and value.is_cuda):
                raise InputError("a CUDA graph takes CUDA tensors", where=name, fix="move it: tensor.cuda()")
        key = tuple((name, value.shape, value.dtype, value.device) for name, value in feed.items())
        with self._lock:
            if key not in self._captured and len(self._captured) >= MOST_SHAPES:
                device = next(iter(feed.values())).device
                return run_bound(self._runtime, self._session, feed, outputs, device, self._options(_NO_GRAPH))
            if key not in self._captured:
                self._captured[key] = self._prepared(feed, outputs)
            return self._replayed(self._captured[key], feed)

    def _replayed(self, captured: _Captured, feed: Mapping[str, Tensor]) -> list[Tensor]:
        for name, buffer in captured.inputs.items():
            buffer.copy_(feed[name].detach(), non_blocking=True)
        torch.cuda.current_stream(next(iter(captured.inputs.values())).device).synchronize()
        self._session.run_with_iobinding(captured.binding, captured.options)
        return [buffer.clone() for buffer in captured.outputs]

    def _prepared(self, feed: Mapping[str, Tensor], outputs: Sequence[str]) -> _Captured:
        """Buffers at fixed addresses; a run without a graph says how large those of the outputs are."""
        inputs = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in feed.items()}
        device = next(iter(inputs.values())).device
        made = run_bound(self._runtime, self._session, inputs, outputs, device, self._options(_NO_GRAPH))
        buffers = [torch.empty_like(tensor) for tensor in made]
        binding = self._session.io_binding()
        for name, tensor in inputs.items():
            binding.bind_ortvalue_input(name, as_ort_value(self._runtime, tensor))
        for name, tensor in zip(outputs, buffers, strict=True):
            binding.bind_ortvalue_output(name, as_ort_value(self._runtime, tensor))
        return _Captured(inputs, buffers, binding, self._options(str(len(self._captured) + 1)))

    def _options(self, graph: str) -> Any:
        options = self._runtime.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, graph)
        return options
