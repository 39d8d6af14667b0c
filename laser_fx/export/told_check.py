"""What the nodes of a file tell of themselves, against what the file says of the whole."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from laser_fx.errors import OnnxFileError
from laser_fx.export.graphs import nodes
from laser_fx.export.metadata import FileMetadata
from laser_fx.export.told import LOOP, MOST, SITE, WORDS
from laser_fx.marks import printable

__all__ = ["check_told"]


def check_told(metadata: FileMetadata, model: onnx.ModelProto, where: str) -> None:
    """Refuse a file whose nodes tell of loops or sites that its metadata does not know, or of what nobody wrote there.

    Files of earlier versions tell nothing at their nodes.

    Raises:
        OnnxFileError: naming the first property that does not fit.
    """
    for complaint in _complaints(metadata, model):
        raise OnnxFileError(
            f"a node does not tell what laser-fx wrote: {complaint}",
            where=where,
            fix="export it again: it was changed after it was written",
        )


def _complaints(metadata: FileMetadata, model: onnx.ModelProto) -> Iterator[str]:
    known = {
        SITE: {printable(f"{site['loop']}:{site['name']}") for site in metadata.sites},
        LOOP: {loop["name"] for loop in metadata.loops},
    }
    for node in nodes(model):
        for entry in node.metadata_props:
            if not entry.key.startswith("laser_fx."):
                continue
            if entry.key not in WORDS or len(entry.value) > MOST or not entry.value.isprintable():
                yield f"{node.name[:60]!r} has {entry.key[:40]!r} = {entry.value[:40]!r}"
            if entry.key in known and entry.value not in known[entry.key]:
                yield f"{node.name[:60]!r} is of {entry.value[:60]!r}, which the metadata does not know"
