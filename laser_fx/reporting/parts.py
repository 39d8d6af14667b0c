"""The parts of a report. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from laser_fx.loops import Site, Step
from laser_fx.reporting.measured import StepSpectrum

__all__ = ["ENERGIES", "Flops", "GraphSize", "SavedBytes", "SiteReport"]

ENERGIES = (0.9, 0.95, 0.99, 0.999)
"""Shares of ``‖X‖²`` for which a report gives the rank that is needed."""


@dataclass(frozen=True)
class SiteReport:
    """What was found at one site.

    Args:
        site: where it is, its shape, and the rank k that is kept.
        steps: what each step measured and did, in the order of execution; empty where nothing was measured.
        rank_at: the least rank that holds each share of `ENERGIES`, from the spectrum of X; empty where none was made,
            or X is not finite.
        energy: share of ``‖X‖²`` that the best k directions hold.
        flops_share: share of the model's FLOPs, in [0, 1].
        saved_share: share of the bytes that the model saves for backward, in [0, 1].
        left_exact: why no basis is used here though one was asked for; ``None`` where one is, or none was asked for.
        spectra: the activation of every step, in the order of execution; empty where none was asked for.

    >>> site = Site("mlp.down", "loop_0", "mlp.down.weight", 72, 768, 256, steps=2, rank=64)
    >>> kept, reset = Step(0.9995, 31, False, False, False), Step(0.9991, 60, True, True, False)
    >>> report = SiteReport(site, steps=(kept, reset))
    >>> report.lowest_fidelity, report.tracked, report.resets, report.exact
    (0.9991, 1, 1, 0)
    """

    site: Site
    steps: tuple[Step, ...] = ()
    rank_at: tuple[int, ...] = ()
    energy: float | None = None
    flops_share: float | None = None
    saved_share: float | None = None
    left_exact: str | None = None
    spectra: tuple[StepSpectrum, ...] = ()

    @property
    def lowest_fidelity(self) -> float | None:
        """The least fidelity that a step used its basis at: exact steps did not. ``None`` where no step used one."""
        return min((step.fidelity for step in self.steps if not step.exact), default=None)

    @property
    def tracked(self) -> int:
        """Steps that made a power iteration."""
        return sum(step.tracked for step in self.steps)

    @property
    def resets(self) -> int:
        """Steps that made a fresh basis."""
        return sum(step.reset for step in self.steps)

    @property
    def exact(self) -> int:
        """Steps that used the exact X."""
        return sum(step.exact for step in self.steps)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward call, two for each multiply-add.

    Args:
        total: the model as it is.
        sites: its linears at sites alone.
        laser: those linears through their bases, measuring, tracking and resets included; ``None``: not measured.

    >>> Flops(total=100, sites=80, laser=30).laser_total
    50
    """

    total: int
    sites: int
    laser: int | None = None

    @property
    def laser_total(self) -> int | None:
        """The whole call, its sites in low rank."""
        return None if self.laser is None else self.total - self.sites + self.laser


@dataclass(frozen=True)
class SavedBytes:
    """Bytes that one training step holds for backward after its forward call, weights not counted.

    Args:
        eager: of the model as it is.
        eager_sites: of the inputs of its linears at sites that nothing else saves.
        laser: of the compiled model; ``None`` where not measured.
        laser_sites: of coefficients and bases at sites.
    """

    eager: int
    eager_sites: int = 0
    laser: int | None = None
    laser_sites: int | None = None


@dataclass(frozen=True)
class GraphSize:
    """Nodes of the graph as captured, loops unrolled, and re-rolled: bodies counted once."""

    captured: int
    rolled: int
