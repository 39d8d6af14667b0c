"""ONNX Runtime: found, or missed with a sentence that helps; sessions of files that were checked before."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from laser_fx.errors import InputError, MissingDependencyError, OnnxFileError, OptionError
from laser_fx.events import tell
from laser_fx.export.expanded import own_name, source_of
from laser_fx.export.host_loop import HostLoop
from laser_fx.export.model_file import ModelFile, read_model_file
from laser_fx.export.providers import (
    Provider,
    absent,
    name_of,
    wanted_providers,
    why_not_loaded,
    without_cuda_graph,
)
from laser_fx.export.step_plan import STEP

__all__ = ["NoKernelError", "Opened", "onnxruntime", "open_file", "open_session", "told"]

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
_NO_KERNEL = re.compile(r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'")
_NO_OPSET = re.compile(r"Opset (\d+) is under development.* till opset (\d+)", re.DOTALL)


class NoKernelError(OnnxFileError):
    """No provider of those asked for has an operator of the file in the dtypes of a node."""


@dataclass(frozen=True)
class Opened:
    """A session, and who runs it.

    Args:
        session: an ``onnxruntime.InferenceSession``; of the ``step`` form a `laser_fx.export.host_loop.HostLoop`.
        providers: the providers that take part, by preference.
        why_not: providers that do not, each with the reason.
    """

    session: Any
    providers: tuple[str, ...]
    why_not: Mapping[str, str] = field(default_factory=dict)


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


def open_session(path: Path, *, providers: Sequence[Provider] | None = None, level: str = "ORT_ENABLE_ALL") -> Any:
    """An inference session of a file at an optimisation level; see `open_file` for the errors."""
    return open_file(read_model_file(path), providers=providers, level=level).session


def open_file(
    file: ModelFile,
    *,
    providers: Sequence[Provider] | None = None,
    level: str = "ORT_ENABLE_ALL",
    options: Any = None,
) -> Opened:
    """An inference session of a file that was read and checked.

    Args:
        providers: execution providers by preference; ``None``: CUDA where this build has it and it can be loaded, else
            the CPU.
        level: name of a graph optimisation level.
        options: an ``onnxruntime.SessionOptions``, taken as it is, or attributes and config entries of one by name.

    Raises:
        OnnxFileError: a node that no provider runs, or a graph that ONNX Runtime refuses.
        OptionError: a provider that this build does not have, the only one asked for and it cannot be loaded, or an
            unknown session option.
    """
    if file.metadata.step is None:
        return _opened(file, providers, level, options)
    step = _opened(file, providers, level, options)
    graphless = without_cuda_graph(providers)
    others = {role: _opened(part, graphless, level, options).session for role, part in file.parts.items()}
    return replace(step, session=HostLoop(file.metadata, {STEP: step.session, **others}))


@contextmanager
def told(where: str) -> Iterator[None]:
    """What ONNX Runtime raises in a call, as a sentence.

    Raises:
        InputError: with what it said.
    """
    try:
        yield
    except (InputError, OptionError):
        raise
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise InputError(
            f"ONNX Runtime cannot run the file on these inputs: {str(error).strip()[:300]}",
            where=where,
            fix="check their values and sizes, indices of tables above all",
        ) from error


def _opened(file: ModelFile, providers: Sequence[Provider] | None, level: str, options: Any) -> Opened:
    runtime = onnxruntime()
    wanted = wanted_providers(runtime, providers)
    settings = _settings(runtime, level, options)
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    settings.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.path.parent))
    session = _session(runtime, file, settings, wanted)
    running = tuple(session.get_providers())
    missed = [name_of(provider) for provider in wanted if name_of(provider) not in running]
    why_not = absent(runtime, providers) | {name: why_not_loaded(runtime, name) for name in missed}
    if providers is not None and len(missed) == len(wanted):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in why_not.items())
        raise OptionError(f"no provider of those asked for can run: {reasons}", where="providers", fix="pass None")
    for name, reason in why_not.items():
        tell(
            logging.WARNING if name in missed else logging.INFO,
            "provider_missed",
            "%s runs on %s, not on %s: %s",
            file.path,
            running[0],
            name,
            reason,
            path=file.path,
            running=running[0],
            provider=name,
            reason=reason,
        )
    return Opened(session, running, why_not)


def _settings(runtime: Any, level: str, options: Any) -> Any:
    if isinstance(options, runtime.SessionOptions):
        return options
    if not isinstance(options, Mapping | None):
        raise OptionError(
            f"session_options is {options!r}",
            where="session_options",
            fix="pass an onnxruntime.SessionOptions, or a dictionary of its attributes",
        )
    settings = runtime.SessionOptions()
    settings.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
    settings.log_severity_level = 3
    for name, value in (options or {}).items():
        _set(settings, name, value)
    return settings


def _set(settings: Any, name: str, value: Any) -> None:
    """An attribute by its name; what has a dot in it is a config entry."""
    try:
        if "." in name:
            settings.add_session_config_entry(name, str(value))
            return
        if name.startswith("_") or name not in dir(settings) or callable(getattr(settings, name)):
            raise OptionError(
                f"there is no session option {name!r}", where="session_options", fix="see onnxruntime.SessionOptions"
            )
        setattr(settings, name, value)
    except (TypeError, RuntimeError) as error:
        raise OptionError(
            f"the session option {name!r} does not take {value!r}", where="session_options", fix="see ONNX Runtime"
        ) from error


def _session(runtime: Any, file: ModelFile, settings: Any, wanted: Sequence[Provider]) -> Any:
    providers = [name if isinstance(name, str) else (name[0], dict(name[1])) for name in wanted]
    try:
        # No fallback of its own, which prints; no options from the file, whatever the environment says.
        session = runtime.InferenceSession(
            file.content, settings, providers=providers, enable_fallback=0, read_config_from_model=0
        )
    except Exception as error:  # onnxruntime's own errors share no base but this
        raise _refused(str(error).strip(), file, [name_of(provider) for provider in wanted]) from error
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept for the fallback that is off: as large as the file
    return session


def _refused(said: str, file: ModelFile, providers: Sequence[str]) -> OnnxFileError:
    path = file.path
    missing = _NO_KERNEL.search(said)
    if missing:
        operator, version, node = missing.groups()
        source = None if node else source_of(file.model, operator)
        named = (
            f"node {own_name(file.model, node)!r}" if source is None else f"node {source.name!r}, a {source.op_type}"
        )
        return NoKernelError(
            f"{' and '.join(providers)} cannot run {operator} (opset {version}) with the dtypes of {named}",
            where=str(path),
            fix="export the model in float32, or run it on a provider that has the operator: 16 bits need a GPU",
        )
    newer = _NO_OPSET.search(said)
    if newer:
        return OnnxFileError(
            f"the file has opset {newer[1]}, this ONNX Runtime knows them up to {newer[2]}",
            where=str(path),
            fix=f"pip install --upgrade onnxruntime, or export with opset={newer[2]}",
        )
    return OnnxFileError(
        f"ONNX Runtime cannot load the file: {said[:300]}",
        where=str(path),
        fix="check that it is a whole ONNX file; 16-bit models need a GPU",
    )


def _is_installed(distribution: str) -> bool:
    try:
        distributions.distribution(distribution)
    except distributions.PackageNotFoundError:
        return False
    return True
