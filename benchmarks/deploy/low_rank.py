"""Files in low rank at any width: random bases, which cost what calibrated ones do."""

from __future__ import annotations

import torch

import laser_fx
from benchmarks.deploy.cases import Size
from benchmarks.deploy.files import File, Files
from benchmarks.deploy.trained import with_ranks
from laser_fx.loops import Site

__all__ = ["SHARE", "random_file", "rank_at"]

SHARE = 0.45
"""Linear FLOPs, of the exact ones."""


def rank_at(share: float, site: Site) -> int:
    """The rank at which a site takes this share of its exact FLOPs.

    >>> rank_at(0.5, Site("up", "loop_0", "up.weight", 12, 64, 64, 4, None))
    16
    """
    return max(1, int(share * site.features * site.outputs / (site.features + site.outputs)))


def random_file(files: Files, size: Size, *, measured: bool) -> File:
    """A rolled file whose sites all go through a frozen random basis: for its speed alone.

    Args:
        measured: whether it measures what it keeps at every step, as files do by default.
    """
    inputs, name = torch.from_numpy(size.inputs(2)), f"{size.name}-low-rank{'-measured' * measured}"
    return files.exported(name, lambda: compiled_in_low_rank(size.looped(16), inputs, SHARE, measured=measured))


def compiled_in_low_rank(
    model: torch.nn.Module, inputs: torch.Tensor, share: float, *, measured: bool
) -> laser_fx.CompiledModel:
    """The model through frozen random bases."""
    exact = laser_fx.compile(model, (inputs,), options=laser_fx.Options.exact())
    found = with_ranks(exact.sites, {site.key: rank_at(share, site) for site in exact.sites})
    options = laser_fx.Options(basis="frozen", memory=None, measure=measured)
    return laser_fx.compile(model, (inputs,), options=options, calibration=found)
