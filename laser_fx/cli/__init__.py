"""The command ``laser-fx``: the public functions, for a model that a factory makes."""

from laser_fx.cli.app import app

__all__ = ["app"]
