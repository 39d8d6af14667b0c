"""Searches the bases and ranks at which a model in low rank still answers as it should, end to end."""

from __future__ import annotations

from laser_fx.calibrator.choose import calibrate
from laser_fx.calibrator.examples import Target
from laser_fx.calibrator.search import BasisKind, Search

__all__ = ["BasisKind", "Search", "Target", "calibrate"]
