"""What a file of ours says about itself: names, loops, sites, options. Stored in the model's metadata as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata as distributions
from typing import Any

from laser_fx.errors import OnnxFileError
from laser_fx.export import schema
from laser_fx.export.bounded_json import read_json
from laser_fx.export.data_file import DataFile
from laser_fx.export.step_plan import StepPlan
from laser_fx.export.step_schema import check_step

__all__ = ["FORMAT_VERSION", "PRODUCER", "Depth", "FileMetadata", "Halt", "package_version"]

PRODUCER = "laser-fx"
FORMAT_VERSION = 2
_PREFIX = "laser_fx."


@dataclass(frozen=True)
class Depth:
    """A trip count that is an input of the file.

    Args:
        input: name of the input.
        loop: name of the loop.
        default: trip count when the model was traced, used where none is given.
        least: smallest trip count at which every output exists.
    """

    input: str
    loop: str
    default: int
    least: int


@dataclass(frozen=True)
class Halt:
    """That the outermost loop ends when the model says that it is done.

    Args:
        output: readable name of the output that says so.
        per: ``"batch"``: all examples run until the last one is done; ``"example"``: each answers as of its own step.
        above: name of the input with the logit above which an example is done, 0-d float32.
        default: that logit where none is given.
        steps: value name of the steps taken, int64: 0-d per batch, (batch,) per example.
        least: steps that run in any case.
    """

    output: str
    per: str
    above: str
    default: float
    steps: str
    least: int


@dataclass(frozen=True)
class FileMetadata:
    """All that a file says about itself.

    Args:
        form: ``"rolled"``, ``"functions"``, ``"step"`` or ``"unrolled"``.
        inputs: names of the user's inputs, in order.
        outputs: readable name and value name of the model's outputs, in order.
        records: site key and value name of the statistics, in order.
        depths: trip counts that are inputs.
        fidelity: name of the fidelity input, ``None`` where nothing is tracked.
        loops: name, nesting level and traced trip count of every loop.
        sites: the tracked sites, as `laser_fx.loops.Site`.
        options: the options the program was compiled with.
        data: the file that holds the weights, ``None`` where they are in the file itself.
        signature: the model's forward as text.
        input_tree: arguments and keyword arguments as `laser_fx.trees.plain_tree`, tensors by ``inputs``.
        output_tree: what the model returns, tensors by their readable names.
        halt: when the outermost loop ends before its depth, ``None`` where it does not.
        step: how the parts of the ``step`` form play together, ``None`` in any other form.
        conditions: what was assumed of the open sizes, ``"tokens > 4"``: the file holds for no others.
    """

    form: str
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    records: tuple[tuple[str, str], ...] = ()
    depths: tuple[Depth, ...] = ()
    fidelity: str | None = None
    loops: tuple[dict[str, Any], ...] = ()
    sites: tuple[dict[str, Any], ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: DataFile | None = None
    signature: str = "forward()"
    input_tree: Any = dataclasses.field(default_factory=list)
    output_tree: Any = dataclasses.field(default_factory=list)
    halt: Halt | None = None
    step: StepPlan | None = None
    conditions: tuple[str, ...] = ()

    @property
    def results(self) -> tuple[str, ...]:
        """Value names of all that the graph gives out, in its order."""
        named = (value for _, value in (*self.outputs, *self.records))
        return (*named, *(() if self.halt is None else (self.halt.steps,)))

    def to_properties(self) -> dict[str, str]:
        """As ONNX metadata: flat text, each value JSON."""
        fields = {key: json.dumps(value, ensure_ascii=False) for key, value in dataclasses.asdict(self).items()}
        fields |= {"format": str(FORMAT_VERSION), "version": json.dumps(package_version())}
        return {_PREFIX + key: value for key, value in fields.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: str) -> FileMetadata:
        """Read back; nothing is used before the schema has passed it.

        Raises:
            OnnxFileError: the file is not ours, damaged, tampered with, or of a format that this version does not read.
        """
        _check_format(properties.get(_PREFIX + "format"), where)
        try:
            told = {_PREFIX + "conditions": "[]", **properties}  # earlier versions told none
            read = {f.name: read_json(told[_PREFIX + f.name]) for f in dataclasses.fields(cls)}
            schema.check(read)
            check_step(read)
        except KeyError as error:
            raise OnnxFileError(f"the file's metadata lacks {error}", where=where, fix="export it again") from error
        except ValueError as error:
            raise OnnxFileError(
                f"the file's metadata is damaged: {error}", where=where, fix="export it again"
            ) from error
        return cls(
            form=read["form"],
            inputs=tuple(read["inputs"]),
            outputs=tuple((name, value) for name, value in read["outputs"]),
            records=tuple((name, value) for name, value in read["records"]),
            depths=tuple(Depth(**depth) for depth in read["depths"]),
            fidelity=read["fidelity"],
            loops=tuple(read["loops"]),
            sites=tuple(read["sites"]),
            options=read["options"],
            data=None if read["data"] is None else DataFile(**read["data"]),
            signature=read["signature"],
            input_tree=read["input_tree"],
            output_tree=read["output_tree"],
            halt=None if read["halt"] is None else Halt(**read["halt"]),
            step=None if read["step"] is None else StepPlan.from_json(read["step"]),
            conditions=tuple(read["conditions"]),
        )


def _check_format(found: str | None, where: str) -> None:
    if found is None:
        raise OnnxFileError("the file was not written by laser-fx", where=where, fix="export it with to_onnx")
    if found == str(FORMAT_VERSION):
        return
    newer = found.isdecimal() and len(found) < 9 and int(found) > FORMAT_VERSION
    raise OnnxFileError(
        f"the file has format {found[:20]}, this laser-fx reads {FORMAT_VERSION}",
        where=where,
        fix="pip install --upgrade laser-fx: a newer one wrote it" if newer else "export it again",
    )


def package_version() -> str:
    """Version of the installed laser-fx."""
    try:
        return distributions.version(PRODUCER)
    except distributions.PackageNotFoundError:
        return "0+unknown"  # run from a source tree that is not installed
