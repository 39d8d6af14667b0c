"""The ways of running a model that are compared, each made ready by one function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

import laser_fx
from laser_fx.call import Call as FlatCall
from laser_fx.call import flatten_call
from laser_fx.compiled import CompiledModel
from laser_fx.memory.copies import copied, copied_inputs
from laser_fx.memory.measure import saved_bytes
from laser_fx.options import Options
from laser_fx.passes.infra import count_nodes

__all__ = ["ARMS", "Arm", "Subject", "Unready"]

_MOST_UNROLLED = 1_000
"""Nodes, loops written out, from which on inductor takes more than seconds."""


@dataclass(frozen=True)
class Subject:
    """What is run.

    Args:
        model: in evaluation mode.
        args: its positional arguments.
        kwargs: its keyword arguments.
        options: those of the arm ``"compiled"``.
        folder: where a file may lie.
        asked: arms that were asked for by name, and so are not left out for taking long.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: Options
    folder: Path
    asked: tuple[str, ...] = ()

    def compiled(self, options: Options) -> CompiledModel:
        """The model compiled for this call."""
        return laser_fx.compile(self.model, self.args, self.kwargs, options=options)


class Unready(Exception):
    """An arm cannot be run here; the message says why."""


Call = Callable[[], Any]
Ready = Callable[[Subject], Call]


@dataclass(frozen=True)
class Arm:
    """A way of running a model.

    Args:
        about: what it does, in words.
        ready: makes the call that is timed.
        train: the options under which a training call keeps what it keeps; None where that is not measured, and
            ``"eager"`` for the model itself.
    """

    about: str
    ready: Ready
    train: Callable[[Subject], Options | None] | None = None

    def saved(self, subject: Subject) -> int | None:
        """Bytes that a training call of a copy of the model holds for backward; None where it has nothing to train."""
        if self.train is None or not any(p.requires_grad for p in subject.model.parameters()):
            return None
        call = flatten_call(subject.args, subject.kwargs)
        try:
            return _saved(copied(subject.model).train(), self.train(subject), call)
        except Exception:  # whatever the model's own code raises: what cannot be copied or trained is still timed
            return None


def _saved(module: nn.Module, options: Options | None, call: FlatCall) -> int:
    if options is not None:
        module = laser_fx.compile(module, options=options)
    tensors = copied_inputs(call)
    args, kwargs = call.rebuild(tensors)
    with torch.random.fork_rng(), torch.enable_grad():
        return saved_bytes(lambda: module(*args, **kwargs), exclude=[*module.buffers(), *tensors])


def _eager(subject: Subject) -> Call:
    return lambda: subject.model(*subject.args, **subject.kwargs)


def _exact(subject: Subject) -> Call:
    compiled = subject.compiled(Options.exact())
    return lambda: compiled(*subject.args, **subject.kwargs)


def _compiled(subject: Subject) -> Call:
    compiled = subject.compiled(subject.options)
    return lambda: compiled(*subject.args, **subject.kwargs)


def _inductor(subject: Subject) -> Call:
    if "torch.compile" not in subject.asked:
        nodes = count_nodes(subject.compiled(Options.exact()).program.captured)
        if nodes > _MOST_UNROLLED:
            raise Unready(f"{nodes:,} nodes unrolled take it long: ask for it with --arm torch.compile")
    module = torch.compile(subject.model)
    return lambda: module(*subject.args, **subject.kwargs)


def _onnx(subject: Subject) -> Call:
    path = Path(tempfile.mkdtemp(dir=subject.folder)) / "model.onnx"
    subject.compiled(Options.exact()).to_onnx(path, verify=False)
    threads = {"intra_op_num_threads": torch.get_num_threads()}  # as many as the others have
    model = laser_fx.export.OnnxModel(path, session_options=threads)
    return lambda: model(*subject.args, **subject.kwargs)


ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "eager": Arm("the model as it is", _eager, lambda _: None),
        "exact": Arm("laser_fx.compile, Options.exact()", _exact, lambda _: Options.exact()),
        "compiled": Arm("laser_fx.compile with the options given", _compiled, lambda subject: subject.options),
        "torch.compile": Arm("torch.compile, inductor", _inductor),
        "onnx": Arm("ONNX Runtime, the exact rolled file", _onnx),
    }
)
"""Name → arm, in the order in which they are shown."""
