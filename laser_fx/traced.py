"""torch's exporter behind flat tensors, and what it refuses told in the model's own lines."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.fx._lazy_graph_module import _use_lazy_graph_module

from laser_fx.call import Call, path_name, register_dataclasses
from laser_fx.cut_structured import refuse_shared_writes
from laser_fx.errors import CaptureError, InputError, LaserError
from laser_fx.events import untold
from laser_fx.nodes import is_mutating
from laser_fx.sentences import first_line
from laser_fx.structured import tracing_once
from laser_fx.unseen import refuse_unseen_gradients, unassigned

__all__ = ["Flat", "traced"]

_TRACER = "torch._subclasses.fake_tensor"
"""A logger: torch logs the traceback of what it cannot trace there, and raises it besides."""
_HERE = f"{Path(__file__).parent}/"


class _OutputTree:
    """The tree of the model's output, and the attributes that forward assigned, noted while it is traced."""

    spec: pytree.TreeSpec
    leaves: tuple[tuple[int | None, Any], ...]
    names: tuple[str, ...]
    assigned: list[str]

    def flatten(self, result: Any) -> tuple[Tensor, ...]:
        paths, self.spec = pytree.tree_flatten_with_path(result)
        tensors = [(path, leaf) for path, leaf in paths if isinstance(leaf, Tensor)]
        position = iter(range(len(tensors)))
        self.leaves = tuple((next(position), None) if isinstance(x, Tensor) else (None, x) for _, x in paths)
        self.names = tuple(path_name(path) or "output" for path, _ in tensors)
        return tuple(leaf for _, leaf in tensors)

    def holds_sizes(self) -> bool:
        """Whether a free size is itself part of the output."""
        return any(isinstance(constant, torch.SymInt) for _, constant in self.leaves)


class Flat(nn.Module):
    """The model behind flat tensor inputs and outputs."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self._call = call
        # torch.export restores a module's attributes after tracing, so the tree is noted in an object beside it.
        self.outputs = _OutputTree()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = self._call.rebuild(tensors)
        with unassigned(self.model) as self.outputs.assigned:
            result = self.model(*args, **kwargs)
        register_dataclasses(result)
        return self.outputs.flatten(result)


def traced(
    flat: Flat,
    call: Call,
    grad_enabled: bool,
    dynamic: bool,
    axes: Mapping[str, list[int]],
    fixed_fronts: Collection[str] = (),
) -> torch.export.ExportedProgram:
    """What torch's exporter makes of a model.

    Args:
        flat: the model.
        call: example inputs.
        grad_enabled: whether gradients are on at the model's door.
        dynamic: leave the shared leading dimension free.
        axes: other dimensions to leave free, by input.
        fixed_fronts: inputs whose leading dimension is not free.

    Raises:
        CaptureError: it refuses the model.
        InputError: the model itself fails on the inputs.
    """
    batch = call.shared_batch() if dynamic else None
    shapes = tuple(
        dict.fromkeys(
            [*([0] if t.ndim and t.shape[0] == batch and name not in fixed_fronts else []), *axes.get(name, [])],
            torch.export.Dim.AUTO,
        )
        or None
        for name, t in zip(call.names, call.tensors, strict=True)
    )
    tensors = tuple(_as_leaf(t, grad_enabled) for t in call.tensors)
    try:
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad_enabled),
            warnings.catch_warnings(),
            untold(_TRACER),
            # torch writes the whole graph out as Python code at every switch of the grad mode; nobody reads that code.
            _use_lazy_graph_module(True),
        ):
            warnings.simplefilter("ignore")
            with tracing_once(), refuse_unseen_gradients() if grad_enabled else nullcontext():
                exported = torch.export.export(flat, tensors, dynamic_shapes=(shapes,), strict=False)
            if not grad_enabled and any(map(is_mutating, exported.graph_module.graph.nodes)):
                refuse_shared_writes(exported.graph_module)
                exported = exported.run_decompositions({})
    except LaserError:
        raise
    except Exception as error:
        raise _refusal(flat, call, grad_enabled, error) from error
    return exported


def _as_leaf(tensor: Tensor, grad_enabled: bool) -> Tensor:
    """An input as the tracer takes it: with no history, and not of inference mode."""
    with torch.inference_mode(False):
        leaf = tensor.clone() if tensor.is_inference() else tensor.detach()
        return leaf.requires_grad_(tensor.requires_grad and grad_enabled)


def _refusal(flat: Flat, call: Call, grad_enabled: bool, error: Exception) -> CaptureError | InputError:
    """Tell inputs that the model itself rejects from a model that the tracer rejects."""
    where = _line_of_model(error)
    if (known := _capture_error_behind(error)) is not None:
        return CaptureError(known.what, where=where, fix=known.fix)
    try:
        # On a copy, from a copy of the random state: a model that is refused runs as it is afterwards.
        with torch.set_grad_enabled(grad_enabled), torch.random.fork_rng():
            Flat(copy.deepcopy(flat.model), call)(*call.tensors)
    except Exception as eager:
        return InputError(
            f"the model fails on these inputs: {first_line(eager)}",
            where=_line_of_model(eager) or where,
            fix="pass inputs that the model's forward accepts",
        )
    return CaptureError(
        f"torch.export cannot trace the model as one graph: {first_line(error)}",
        where=where,
        fix="remove the branch or the Python value that depends on tensor data (torch.where instead of if), or compile"
        " the part of the model that has none",
    )


def _capture_error_behind(error: BaseException | None) -> CaptureError | None:
    while error is not None and not isinstance(error, CaptureError):
        error = error.__cause__ or error.__context__
    return error


def _line_of_model(error: BaseException) -> str | None:
    """``file:line: code`` of the innermost frame that is neither torch's nor ours."""
    seen: BaseException | None = error
    while seen is not None:
        frames = [f for f in traceback.extract_tb(seen.__traceback__) if not _is_inner(f.filename)]
        if frames:
            return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}"
        seen = seen.__cause__
    return None


def _is_inner(file: str) -> bool:
    """Whether a file is torch's, generated, or ours; the models of the zoo are models like any other."""
    ours = file.startswith(_HERE) and not file.startswith(f"{_HERE}zoo")
    return ours or file.startswith((str(Path(torch.__file__).parent), "<"))
