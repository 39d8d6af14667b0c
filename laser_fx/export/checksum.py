"""A checksum at the end of a file, so that a damaged or an edited one is known.

A protobuf message may be continued by what is appended to it: the last bytes of a file are one more metadata entry,
the SHA-256 of all bytes before them. It finds accidents and edits; it is no signature, since anyone can write it anew.
"""

from __future__ import annotations

import hashlib

import onnx

__all__ = ["has_checksum", "is_unchanged", "with_checksum"]

KEY = "laser_fx.sha256"


def with_checksum(content: bytes) -> bytes:
    """A serialised model and its checksum."""
    return content + _entry(hashlib.sha256(content).hexdigest())


def has_checksum(model: onnx.ModelProto) -> bool:
    """Whether the file was written with one."""
    return any(entry.key == KEY for entry in model.metadata_props)


def is_unchanged(content: bytes) -> bool:
    """Whether the checksum at the end is that of all before it."""
    body, entry = content[:-_LENGTH], content[-_LENGTH:]
    return entry == _entry(hashlib.sha256(body).hexdigest())


def _entry(digest: str) -> bytes:
    model = onnx.ModelProto(metadata_props=[onnx.StringStringEntryProto(key=KEY, value=digest)])
    return bytes(model.SerializeToString())


_LENGTH = len(_entry("0" * 64))
