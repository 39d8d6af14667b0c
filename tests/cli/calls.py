"""How the tests of this folder call a command."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from laser_fx.cli import app
from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import Report

__all__ = ["REPORT", "call"]

REPORT = Report("Tiny", LoopNest((Loop("loop_0", 4, carry=("z",)),)))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
