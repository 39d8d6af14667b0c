"""What a report was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

__all__ = ["environment"]


def environment() -> dict[str, str]:
    """Versions and machine, in the order in which a report shows them.

    >>> list(environment())[:3]
    ['laser-fx', 'torch', 'Python']
    """
    found = {
        "laser-fx": _version("laser-fx"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "ONNX Runtime": _version("onnxruntime", "onnxruntime-gpu"),
        "system": f"{platform.system()} {platform.machine()}",
        "CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads",
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found


def _version(*distributions: str) -> str:
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
