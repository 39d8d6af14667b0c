"""Tensors into ONNX Runtime and out of it in the same memory: by DLPack on CUDA, as numpy arrays on the CPU.

A session writes its outputs where they are asked for, so a tensor that lies on the GPU never passes through the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from laser_fx.errors import InputError

__all__ = ["as_ort_value", "as_tensor", "run_bound"]


class _Bool:
    """A bool tensor as ONNX Runtime takes one: bytes, and the word that they are truth values."""

    dtype = "torch.bool"

    def __init__(self, tensor: Tensor) -> None:
        self._bytes = tensor.view(torch.uint8)

    def __dlpack__(self) -> Any:
        return self._bytes.__dlpack__()


def run_bound(
    runtime: Any,
    session: Any,
    feed: Mapping[str, Any],
    outputs: Sequence[str],
    device: torch.device,
    options: Any = None,
) -> list[Tensor]:
    """Run a session on tensors where they lie.

    Args:
        runtime: the ONNX Runtime package.
        feed: tensors or numpy arrays by input name.
        outputs: value names, in the order of the result.
        device: where the outputs shall be: ``cpu``, or ``cuda`` where the session runs there.
        options: an ``onnxruntime.RunOptions``.
    """
    binding = session.io_binding()
    kept = {name: as_ort_value(runtime, value) for name, value in feed.items()}
    for name, value in kept.items():
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, device.type, device.index or 0)
    if any(isinstance(value, Tensor) and value.is_cuda for value in feed.values()):
        torch.cuda.current_stream(device).synchronize()  # ONNX Runtime has a stream of its own
    session.run_with_iobinding(binding, options)
    return [as_tensor(value) for value in binding.get_outputs()]


def as_ort_value(runtime: Any, value: Any) -> Any:
    """A tensor or an array as an ``OrtValue`` in the same memory.

    Raises:
        InputError: this ONNX Runtime has no DLPack, and the tensor is not one that numpy could hold.
    """
    if isinstance(value, np.ndarray | np.generic):
        return runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
    tensor = value.detach().contiguous()
    if not hasattr(runtime.OrtValue, "from_dlpack"):
        if tensor.is_cuda or tensor.dtype is torch.bfloat16:
            raise InputError(
                f"ONNX Runtime {runtime.__version__} takes no {tensor.dtype} on {tensor.device} from Python",
                fix="pip install --upgrade onnxruntime-gpu, or pass float32 tensors on the CPU",
            )
        return runtime.OrtValue.ortvalue_from_numpy(tensor.numpy())
    return runtime.OrtValue.from_dlpack(_Bool(tensor) if tensor.dtype is torch.bool else tensor)


def as_tensor(value: Any) -> Tensor:
    """An ``OrtValue`` as a tensor in the same memory."""
    if not hasattr(value, "__dlpack__"):
        return torch.from_numpy(value.numpy())
    tensor = from_dlpack(value)
    return tensor.view(torch.bool) if value.data_type() == "tensor(bool)" and tensor.dtype is torch.uint8 else tensor
