"""Where a call computes: on arrays of the host, or on tensors where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from laser_fx.export.bind import run_bound
from laser_fx.export.cuda_graph import CudaGraphs
from laser_fx.export.providers import CUDA

__all__ = ["Placement", "placed"]


@dataclass(frozen=True)
class Placement:
    """Inputs as the parts of a file take them, and answers as the caller wants them.

    Args:
        feed: inputs by name: arrays of the host where ``device`` is ``None``.
        device: where tensors are and stay.
        as_tensors: whether the caller gets tensors.
    """

    feed: Mapping[str, Any]
    device: torch.device | None
    as_tensors: bool

    def run(
        self, runtime: Any, session: Any, feed: Mapping[str, Any], outputs: Sequence[str], graphs: CudaGraphs | None
    ) -> Sequence[Any]:
        """Run one session.

        Args:
            runtime: the ONNX Runtime package.
            session: an ``onnxruntime.InferenceSession``.
            feed: its inputs, placed.
            outputs: value names, in the order of the result.
            graphs: the captured graphs of the session, where it has them.
        """
        if self.device is None:
            answers: Sequence[Any] = session.run(outputs, feed)
            return answers
        if graphs is not None:
            return graphs.run({name: self._moved(value) for name, value in feed.items()}, outputs)
        return run_bound(runtime, session, feed, outputs, self.device)

    def answer(self, value: Any) -> Any:
        """A value as the caller gets it."""
        return torch.from_numpy(value) if self.as_tensors and not isinstance(value, Tensor) else value

    def _moved(self, value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else torch.as_tensor(value, device=self.device)


def placed(feed: Mapping[str, Any], providers: Sequence[str], *, numpy_has_all: bool) -> Placement:
    """Where a call with these inputs computes.

    Args:
        feed: inputs by name, tensors or arrays.
        providers: those that run the file.
        numpy_has_all: whether numpy has every dtype of it.

    >>> placed({"x": torch.ones(2)}, ["CPUExecutionProvider"], numpy_has_all=True).feed["x"]
    array([1., 1.], dtype=float32)
    """
    tensors = [value for value in feed.values() if isinstance(value, Tensor)]
    on_gpu = [tensor.device for tensor in tensors if tensor.is_cuda]
    if on_gpu and CUDA in providers:
        return Placement(feed, on_gpu[0], as_tensors=True)
    here = {name: value.detach().cpu() if isinstance(value, Tensor) else value for name, value in feed.items()}
    if not numpy_has_all:
        return Placement(here, torch.device("cpu"), as_tensors=True)
    arrays = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in here.items()}
    return Placement(arrays, None, as_tensors=bool(tensors))
