"""Finds the weight-shared loops of recursive models, rolls them, tracks their subspaces, and exports them to ONNX."""

from importlib.metadata import PackageNotFoundError, version

from laser_fx import callbacks, errors, export
from laser_fx.compiler import CompiledModel, calibrate, compile, inspect
from laser_fx.options import Options
from laser_fx.structured import loop

try:
    __version__ = version("laser-fx")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "CompiledModel",
    "Options",
    "__version__",
    "calibrate",
    "callbacks",
    "compile",
    "errors",
    "export",
    "inspect",
    "loop",
]
