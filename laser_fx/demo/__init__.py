"""The main job, end to end: trained models in, loops found and re-rolled, sites tracked, verified ONNX files out."""

from laser_fx.demo.demonstrate import run

__all__ = ["run"]
