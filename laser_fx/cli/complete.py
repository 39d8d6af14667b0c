"""What a shell offers to complete."""

from __future__ import annotations

__all__ = ["arm_names", "factory_names", "measure_names", "trained_models"]


def factory_names(incomplete: str) -> list[str]:
    """Names of the zoo that begin so. Modules are left alone: to look into one is to run it.

    >>> factory_names("zoo.h")
    ['zoo.hrm', 'zoo.huginn']
    """
    from laser_fx.zoo.examples import EXAMPLES  # only the shell asks for it

    return [name for name in (f"zoo.{name}" for name in sorted(EXAMPLES)) if name.startswith(incomplete)]


def arm_names(incomplete: str) -> list[str]:
    """Arms of a benchmark whose names begin so.

    >>> arm_names("e")
    ['eager', 'exact']
    """
    from laser_fx.bench import ARMS

    return [name for name in ARMS if name.startswith(incomplete)]


def measure_names(incomplete: str) -> list[str]:
    """What can be measured, and begins so.

    >>> measure_names("mem")
    ['memory']
    """
    from laser_fx.reporting.instruments.choose import MEASURES

    return [name for name in (*MEASURES, "all") if name.startswith(incomplete)]


def trained_models(incomplete: str) -> list[str]:
    """Trained models whose names begin so.

    >>> trained_models("su")
    ['sudoku']
    """
    from laser_fx.zoo import models

    return [name for name in models() if name.startswith(incomplete)]
