"""Ways of running a model beside each other: how long they take, what they keep for backward, how they answer."""

from laser_fx.bench.arms import ARMS
from laser_fx.bench.result import ArmResult, BenchResult
from laser_fx.bench.run import bench

__all__ = ["ARMS", "ArmResult", "BenchResult", "bench"]
