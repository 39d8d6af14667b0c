"""Part five: what low rank saves in time: random bases at any width, calibrated ones of the trained models."""

from __future__ import annotations

import torch

import laser_fx
from benchmarks.deploy.cases import Size
from benchmarks.deploy.files import File, Files
from laser_fx.calibration import Calibration, SiteBasis
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


def random_file(files: Files, size: Size, share: float = SHARE) -> File:
    """A rolled file whose sites all go through a frozen random basis: for its speed alone."""
    inputs = torch.from_numpy(size.inputs(2))
    return files.exported(f"{size.name}-low-rank", lambda: compiled_in_low_rank(size.looped(16), inputs, share))


def random_calibration(sites: tuple[Site, ...], share: float) -> Calibration:
    """Orthonormal bases of no meaning, at this share of the FLOPs."""
    generator = torch.Generator().manual_seed(0)
    bases = {}
    for site in sites:
        wide = torch.randn(site.outputs, rank_at(share, site), generator=generator)
        bases[site.key] = SiteBasis("output", torch.linalg.qr(wide).Q.contiguous())
    return Calibration(bases, "agreement", share, 0.0, 1.0, (0.0, 1.0), 0, ())


def compiled_in_low_rank(model: torch.nn.Module, inputs: torch.Tensor, share: float) -> laser_fx.CompiledModel:
    """The model through frozen random bases."""
    exact = laser_fx.compile(model, (inputs,), options=laser_fx.Options.exact())
    found = random_calibration(exact.sites, share)
    return laser_fx.compile(model, (inputs,), options=laser_fx.Options(basis="frozen", memory=None), calibration=found)
