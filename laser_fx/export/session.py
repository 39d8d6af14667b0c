"""ONNX Runtime: found, or missed with a sentence that helps."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from laser_fx.errors import MissingDependencyError, OnnxFileError, OptionError

__all__ = ["onnxruntime", "open_session"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


def onnxruntime() -> Any:
    """The ONNX Runtime package.

    Raises:
        MissingDependencyError: it is not installed, or twice: the CPU and the GPU build overwrite each other's files.
    """
    if all(_is_installed(name) for name in _DISTRIBUTIONS):
        raise MissingDependencyError(
            "onnxruntime and onnxruntime-gpu are both installed: they overwrite each other's files",
            fix="pip uninstall onnxruntime onnxruntime-gpu, then pip install 'laser-fx[gpu]' or 'laser-fx[cpu]'",
        )
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingDependencyError("ONNX Runtime is not installed", fix="pip install 'laser-fx[cpu]'") from error


def open_session(path: Path, *, providers: Sequence[str] | None = None, level: str = "ORT_ENABLE_ALL") -> Any:
    """An inference session.

    Args:
        providers: execution providers by preference; ``None``: CUDA where this build has it, else the CPU.
        level: name of a graph optimisation level.

    Raises:
        OnnxFileError: the file is missing, damaged or not ONNX.
        OptionError: a provider that this build does not have.
    """
    runtime = onnxruntime()
    if not path.is_file():
        raise OnnxFileError("there is no such file", where=str(path))
    options = runtime.SessionOptions()
    options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=_providers(runtime, providers))
    except OptionError:
        raise
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise OnnxFileError(
            f"ONNX Runtime cannot load the file: {str(error).strip()[:300]}",
            where=str(path),
            fix="check that it is a whole ONNX file; 16-bit models need a GPU",
        ) from error


def _providers(runtime: Any, wanted: Sequence[str] | None) -> list[str]:
    available = runtime.get_available_providers()
    if wanted is None:
        return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    for name in wanted:
        if name not in available:
            raise OptionError(
                f"the provider {name!r} is not in this build of ONNX Runtime",
                where="providers",
                fix=f"choose among {', '.join(available)}",
            )
    return list(wanted)


def _is_installed(distribution: str) -> bool:
    try:
        distributions.distribution(distribution)
    except distributions.PackageNotFoundError:
        return False
    return True
