"""ONNX: write a program with its loops kept, check the file, run it on ONNX Runtime."""

from __future__ import annotations

from laser_fx.export.check import FileCheck, verify_exported, write_reference
from laser_fx.export.host_loop import StreamedStep
from laser_fx.export.onnx import OnnxFile, to_onnx
from laser_fx.export.repository import ServedModel, serve_config
from laser_fx.export.runtime import OnnxModel
from laser_fx.export.step_states import StatePairs
from laser_fx.export.verify import Verification

__all__ = [
    "FileCheck",
    "OnnxFile",
    "OnnxModel",
    "ServedModel",
    "StatePairs",
    "StreamedStep",
    "Verification",
    "serve_config",
    "to_onnx",
    "verify_exported",
    "write_reference",
]
