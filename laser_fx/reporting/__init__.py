"""What a compilation found and did: as data, text, and one HTML page."""

from laser_fx.reporting.environment import environment
from laser_fx.reporting.measured import (
    CarryTrajectory,
    GraphPicture,
    JacobianStep,
    LoopDynamics,
    MemoryArm,
    OnnxSize,
    PictureNode,
    StepSpectrum,
    TrajectoryStep,
)
from laser_fx.reporting.parts import ENERGIES, Flops, GraphSize, SavedBytes, SiteReport
from laser_fx.reporting.report import SCHEMA, Report
from laser_fx.reporting.schema import json_schema

__all__ = [
    "ENERGIES",
    "SCHEMA",
    "CarryTrajectory",
    "Flops",
    "GraphPicture",
    "GraphSize",
    "JacobianStep",
    "LoopDynamics",
    "MemoryArm",
    "OnnxSize",
    "PictureNode",
    "Report",
    "SavedBytes",
    "SiteReport",
    "StepSpectrum",
    "TrajectoryStep",
    "environment",
    "json_schema",
]
