"""ONNX: write a program with its loops kept, check the file, run it on ONNX Runtime."""

from __future__ import annotations

from laser_fx.export.onnx import OnnxFile, to_onnx
from laser_fx.export.runtime import OnnxModel
from laser_fx.export.verify import Verification

__all__ = ["OnnxFile", "OnnxModel", "Verification", "to_onnx"]
