"""Plain ONNX Runtime sessions, on one thread: nothing of torch is loaded here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

__all__ = ["answer", "session"]


def session(path: str, *, profile: Path | None = None) -> Any:
    """A session as ONNX Runtime optimises it by default; with `profile`, one that writes its profile to such a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def answer(opened: Any, inputs: npt.NDArray[Any], depth: int | None = None) -> npt.NDArray[Any]:
    """The first output of a session; `depth` goes in where the file takes one."""
    feed = {opened.get_inputs()[0].name: inputs}
    if depth is not None and "depth" in {value.name for value in opened.get_overridable_initializers()}:
        feed["depth"] = np.array(depth, np.int64)
    found: npt.NDArray[Any] = opened.run([opened.get_outputs()[0].name], feed)[0]
    return found
