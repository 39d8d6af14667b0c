"""Names of the files beside a main file: no two main files of a folder share one, whatever their endings.

An export removes what belonged to the file that it replaces, so a file that two of them named would be lost to one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from laser_fx.export.step_plan import WEIGHTS

__all__ = ["part_name"]

_NAMED_BY = 12


def part_name(main: Path, role: str, sha256: str) -> str:
    """The name of a part: after its main file for people, by a digest of that name and of the content for itself.

    Args:
        main: the main file.
        role: what the part is, ``"weights"`` say.
        sha256: of its bytes, in hexadecimal.

    >>> part_name(Path("m.onnx"), "weights", "0" * 64), part_name(Path("m.model"), "start", "0" * 64)
    ('m.weights-8acaaf1fe228.bin', 'm.model.start-1fa8387817aa.model')
    """
    own = hashlib.sha256(f"{main.name}/{sha256}".encode()).hexdigest()[:_NAMED_BY]
    ending = ".bin" if role == WEIGHTS else main.suffix or ".onnx"
    return f"{main.name.removesuffix('.onnx')}.{role}-{own}{ending}"
