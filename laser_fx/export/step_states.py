"""Which outputs of a step-wise model are the next call's inputs: as the caller says, or as the trees of both agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import onnx_ir as ir

from laser_fx.errors import OptionError
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.source import Exportable

__all__ = ["StatePairs", "following_inputs", "matching_trees", "state_pairs"]

StatePairs: TypeAlias = Mapping[str, str] | Literal["auto"]
"""Output by input, both by their readable names; ``"auto"``: see `matching_trees`."""


def state_pairs(state: StatePairs, metadata: FileMetadata, graph: ir.Graph) -> dict[str, str]:
    """Value name of the output that is the next step's input, by the input's name.

    Raises:
        OptionError: a name that is none, a pair of different dtypes or shapes, or ``"auto"`` where no trees agree.
    """
    outputs = dict(metadata.outputs)
    pairs = matching_trees(metadata.inputs, outputs) if state == "auto" else dict(state)
    if not pairs:
        raise OptionError(
            "no structure that the model takes is one that it gives",
            where="state",
            fix="say which output is the next call's input: state={'z': 'z_out'}",
        )
    for name, following in pairs.items():
        _known(name, metadata.inputs, "input")
        _known(following, outputs, "output")
    if len(set(pairs.values())) != len(pairs):
        raise OptionError("an output is the next value of two inputs", where="state", fix="name each output once")
    values = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    for name, following in pairs.items():
        _check_alike(values[name], values[outputs[following]], following)
    return {name: outputs[following] for name, following in pairs.items()}


def matching_trees(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Output by input where a whole argument has the very leaves of one element of the result, and of no other.

    >>> matching_trees(["carry.h", "carry.z", "x"], ["0.h", "0.z", "1.logits"])
    {'carry.h': '0.h', 'carry.z': '0.z'}
    >>> matching_trees(["x", "z"], ["z", "score"])
    {'z': 'z'}
    >>> matching_trees(["a.z"], ["0.z", "1.z"])
    {}
    """
    taken, given = _by_head(inputs), _by_head(outputs)
    pairs: dict[str, str] = {}
    for head, leaves in taken.items():
        fitting = [other for other, found in given.items() if found == leaves and (any(leaves) or other == head)]
        if head in fitting:
            fitting = [head]
        if len(fitting) == 1:
            pairs |= {_joined(head, leaf): _joined(fitting[0], leaf) for leaf in leaves}
    return pairs


def following_inputs(program: Exportable, metadata: FileMetadata, results: Sequence[Any]) -> dict[str, Any]:
    """By placeholder, the inputs of a step-wise model's next call that its last one made.

    Args:
        program: the model.
        metadata: that of its file, which says which they are.
        results: what the last call gave, in the order of the outputs; empty before the first one.
    """
    if not results or metadata.step is None or not metadata.step.is_whole_model:
        return {}
    made = {value: result for (_, value), result in zip(metadata.outputs, results, strict=False)}
    placeholders = dict(zip(program.input_names, program.user_inputs, strict=True))
    return {placeholders[state.name]: made[state.following] for state in metadata.step.states}


def _by_head(names: Iterable[str]) -> dict[str, list[str]]:
    heads: dict[str, list[str]] = {}
    for name in names:
        head, _, leaf = name.partition(".")
        heads.setdefault(head, []).append(leaf)
    return {head: sorted(leaves) for head, leaves in heads.items()}


def _joined(head: str, leaf: str) -> str:
    return f"{head}.{leaf}" if leaf else head


def _known(name: str, names: Iterable[str], kind: str) -> None:
    if name not in names:
        known = ", ".join(map(repr, names))
        raise OptionError(f"the model has no {kind} {name!r}", where="state", fix=f"choose among {known}")


def _check_alike(first: ir.Value, following: ir.Value, name: str) -> None:
    shapes = [None if value.shape is None else [str(size) for size in value.shape] for value in (first, following)]
    if first.dtype != following.dtype or shapes[0] != shapes[1]:
        raise OptionError(
            f"{name!r} is {following.dtype} {following.shape}, but {first.name!r} takes {first.dtype} {first.shape}",
            where="state",
            fix="pair values of one dtype and shape",
        )
