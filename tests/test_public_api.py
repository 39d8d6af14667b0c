"""The public face changes on purpose only."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import laser_fx

PUBLIC = {
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
}


def module_names() -> list[str]:
    found = pkgutil.walk_packages(laser_fx.__path__, prefix="laser_fx.")
    return sorted(module.name for module in found if not module.name.rpartition(".")[2].startswith("_"))


def test_the_public_names_are_these() -> None:
    assert set(laser_fx.__all__) == PUBLIC


@pytest.mark.parametrize("name", module_names())
def test_every_module_says_what_is_public(name: str) -> None:
    module = importlib.import_module(name)
    if hasattr(module, "__path__") and not hasattr(module, "__all__"):
        return  # a package that only holds modules
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [public for public in module.__all__ if not hasattr(module, public)]
