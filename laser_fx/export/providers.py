"""Which of ONNX Runtime's execution providers run a file, and why another one does not."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from laser_fx.errors import OptionError
from laser_fx.events import tell

__all__ = [
    "CPU",
    "CUDA",
    "CUDA_GRAPH",
    "Provider",
    "absent",
    "name_of",
    "wanted_providers",
    "why_not_loaded",
    "without_cuda_graph",
]

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
CUDA_GRAPH = "enable_cuda_graph"
Provider: TypeAlias = str | tuple[str, Mapping[str, Any]]
"""A provider's name, or its name and its options."""

_LIBRARIES = ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so")


def name_of(provider: Provider) -> str:
    """The name alone."""
    return provider if isinstance(provider, str) else provider[0]


def without_cuda_graph(providers: Sequence[Provider] | None) -> Sequence[Provider] | None:
    """The same providers, none of them told to capture."""
    if providers is None:
        return None
    return [p if isinstance(p, str) else (p[0], {k: v for k, v in p[1].items() if k != CUDA_GRAPH}) for p in providers]


def wanted_providers(runtime: Any, asked: Sequence[Provider] | None) -> list[Provider]:
    """The providers to open a session with, by preference.

    Args:
        runtime: the ONNX Runtime package.
        asked: what the caller asks for; ``None``: CUDA where this build has it, then the CPU.

    Raises:
        OptionError: one that this build does not have, or no list of providers.
    """
    available = runtime.get_available_providers()
    if asked is not None and (isinstance(asked, str) or not asked or not all(map(_is_provider, asked))):
        raise OptionError(
            f"providers is {asked!r}",
            where="providers",
            fix=f"pass None or a list, of names or of (name, options): {', '.join(available)}",
        )
    wanted: list[Provider] = [name for name in (CUDA, CPU) if name in available] if asked is None else list(asked)
    for provider in wanted:
        if name_of(provider) not in available:
            raise OptionError(
                f"the provider {name_of(provider)!r} is not in this build of ONNX Runtime",
                where="providers",
                fix=f"choose among {', '.join(available)}",
            )
    if CUDA in map(name_of, wanted):
        _preload(runtime)
    return wanted


def _is_provider(value: object) -> bool:
    with_options = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping)
    return isinstance(value[0] if with_options else value, str)  # type: ignore[index]


def absent(runtime: Any, asked: Sequence[Provider] | None) -> dict[str, str]:
    """Providers that nobody asked for by name and that this build lacks, each with the reason."""
    if asked is not None or CUDA in runtime.get_available_providers():
        return {}
    return {CUDA: "this build of ONNX Runtime has no CUDA: pip uninstall onnxruntime, pip install 'laser-fx[gpu]'"}


def why_not_loaded(runtime: Any, provider: str) -> str:
    """Why a provider that this build has did not take part in a session."""
    if provider != CUDA:
        return "ONNX Runtime opened the session without it"
    folder = Path(runtime.__file__).parent / "capi"
    for library in _LIBRARIES:
        try:
            ctypes.CDLL(str(folder / library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return f"{library} cannot be loaded: {error}"
    return "its libraries load, but there is no GPU that it can use: see nvidia-smi"


def _preload(runtime: Any) -> None:
    """Load the CUDA libraries of nvidia's Python packages, where this version can; what it prints goes to the log."""
    preload = getattr(runtime, "preload_dlls", None)
    if preload is None:
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        preload()
    if printed.getvalue():
        tell(logging.DEBUG, "preloaded", "onnxruntime.preload_dlls: %s", printed.getvalue().strip())
