"""`write_step`: a program as the files of the ``step`` form, checked before the main file appears."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from laser_fx.export.checksum import with_checksum
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.model_file import files_beside
from laser_fx.export.source import Exportable
from laser_fx.export.step_build import BuiltStep
from laser_fx.export.step_files import share_weights, written_parts
from laser_fx.export.step_plan import STEP, graph_parts
from laser_fx.export.verify import Verification, verify_file
from laser_fx.files import replacing

__all__ = ["WrittenStep", "write_step"]


@dataclass(frozen=True)
class WrittenStep:
    """What was written.

    Args:
        bytes: of all files.
        nodes: of all graphs.
        parts: the files beside the main one.
        verification: what was compared, ``None`` where nothing was.
    """

    bytes: int
    nodes: int
    parts: tuple[Path, ...]
    verification: Verification | None


def write_step(
    program: Exportable,
    built: BuiltStep,
    target: Path,
    *,
    check: Callable[[Path], object],
    verify: bool,
    overwrite: bool,
    external_data: bool = False,
) -> WrittenStep:
    """Write all parts, then the main file.

    Args:
        program: what the parts were made from.
        built: the parts.
        target: the main file.
        check: refuses a file that is no ONNX.
        verify: run the files beside the program.
        overwrite: replace what is there.
        external_data: keep all weights in the file that the parts share, not only those that they share.

    Raises:
        OutputPathError: a file cannot be written.
        VerificationError: the files do not answer as the program does. Nothing is left on disk.
    """
    old = files_beside(target) if overwrite else set()
    weights = share_weights(list(built.models.values()), target, everything=external_data)
    contents = {role: _bytes(model) for role, model in built.models.items() if role != STEP}
    with written_parts(target, contents, weights) as parts, replacing(target, overwrite=overwrite) as beside:
        assert built.metadata.step is not None
        plan = built.metadata.step.changed(parts=parts)
        metadata = dataclasses.replace(built.metadata, step=plan)
        beside.write_bytes(main := _main(built.models[STEP], metadata))
        for path in (beside, *(target.parent / part.file for part in graph_parts(plan))):
            check(path)  # where the weights are: they may be too large for the memory of one message
        verification = verify_file(program, beside, metadata) if verify else None
    new = tuple(target.parent / part.file for part in parts)
    for path in old - set(new):
        path.unlink(missing_ok=True)
    nodes = sum(sum(1 for _ in model.graph.all_nodes()) for model in built.models.values())
    return WrittenStep(len(main) + sum(path.stat().st_size for path in new), nodes, new, verification)


def _main(model: ir.Model, metadata: FileMetadata) -> bytes:
    model.metadata_props.update(metadata.to_properties())
    return _bytes(model)


def _bytes(model: ir.Model) -> bytes:
    return with_checksum(ir.to_proto(model).SerializeToString())
