"""What a report measures besides its sites and totals: spectra by step, trajectories, dynamics, memory, files. Data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log

__all__ = [
    "CONVERGED",
    "CarryTrajectory",
    "GraphPicture",
    "JacobianStep",
    "LoopDynamics",
    "MemoryArm",
    "OnnxSize",
    "PictureNode",
    "StepSpectrum",
    "TrajectoryStep",
]

CONVERGED = 1e-2
"""A carry that changes by less than this part of its norm, from some step on, counts as converged."""


@dataclass(frozen=True)
class StepSpectrum:
    """The activation X of one step at one site, flattened to (N, D).

    Args:
        step: in the order of execution, from 0.
        values: leading singular values over ``‖X‖_F``, largest first, so that their squares sum to at most 1.
        ranks: the least rank that holds each share of `laser_fx.reporting.ENERGIES` of ``‖X‖²``.
        centred_ranks: the same of X less the mean of its rows; what is constant over rows needs no direction then.
        mean_share: share of ``‖X‖²`` in the mean of the rows.
        drift: largest principal angle, in radians, between the leading subspaces of this step and of the one before,
            of the smaller one's rank at 99 % energy; None for the first step.
        mean_drift: root mean square of all principal angles between them; None for the first step.

    >>> StepSpectrum(0, (0.8, 0.6), (2, 2, 2, 2), (1, 1, 1, 1), mean_share=0.7).effective_rank > 1.9
    True
    """

    step: int
    values: tuple[float, ...]
    ranks: tuple[int, ...]
    centred_ranks: tuple[int, ...] = ()
    mean_share: float | None = None
    drift: float | None = None
    mean_drift: float | None = None

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the energies shown: 1 for one direction, k for k equal ones."""
        energies = [value * value for value in self.values if value > 0]
        total = sum(energies)
        shares = [share for energy in energies if total and (share := energy / total) > 0]
        return exp(-sum(share * log(share) for share in shares)) if shares else 0.0


@dataclass(frozen=True)
class TrajectoryStep:
    """A carry after one step of its loop.

    Args:
        step: in the order of execution, from 0; of very many steps evenly spaced ones are there.
        change: ``‖z' − z‖ / ‖z‖``, z being the carry before the step; None where z was zero or that is not finite.
        cosine: of the angle to the exact model's carry after the same step; None where nothing approximates, or it
            is not finite.
        error: ``‖z − z_exact‖ / ‖z_exact‖`` after the same step; None where nothing approximates.
    """

    step: int
    change: float | None
    cosine: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class CarryTrajectory:
    """How a floating carry moves from step to step, over all steps of a call in the order of execution.

    Args:
        loop: name of the loop that carries it.
        carry: which one, as `laser_fx.loops.Loop.carry` has it.
        steps: after each step.

    >>> moved = [TrajectoryStep(step, change) for step, change in enumerate((0.9, 0.2, 0.005, 0.001))]
    >>> CarryTrajectory("loop_0", "z: float32[s0, 8]", tuple(moved)).converged_at
    2
    """

    loop: str
    carry: str
    steps: tuple[TrajectoryStep, ...] = ()

    @property
    def converged_at(self) -> int | None:
        """The first step from which on every change is below `CONVERGED`; None where the last one is not."""
        first: int | None = None
        for step in self.steps:
            still = step.change is not None and step.change < CONVERGED
            first = (step.step if first is None else first) if still else None
        return first


@dataclass(frozen=True)
class JacobianStep:
    """Leading eigenvalues of one step's Jacobian ``∂z'/∂z`` at the carry before that step.

    Args:
        step: in the order of execution, from 0.
        eigenvalues: (real, imaginary) by falling modulus; a pair of conjugates is two.
        residuals: ``‖Jv − λv‖ / |λ|`` of each, v of length 1: how far to believe it.
        norm: largest singular value, a lower bound by power iteration: what a step can do to a small change at most.

    >>> JacobianStep(0, ((0.6, 0.8), (0.6, -0.8)), (1e-4, 1e-4), norm=1.5).radius
    1.0
    """

    step: int
    eigenvalues: tuple[tuple[float, float], ...]
    residuals: tuple[float, ...]
    norm: float | None = None

    @property
    def radius(self) -> float:
        """Largest modulus of the eigenvalues found; below 1 the step contracts near a fixed point."""
        return max((abs(complex(*value)) for value in self.eigenvalues), default=0.0)

    @property
    def decided(self) -> bool:
        """Whether `radius` differs from 1 by more than the residual of its eigenvalue."""
        found = zip(self.eigenvalues, self.residuals, strict=False)
        radius, residual = max(((abs(complex(*value)), residual) for value, residual in found), default=(0.0, 0.0))
        return abs(radius - 1.0) > residual * radius


@dataclass(frozen=True)
class LoopDynamics:
    """Whether a recursion contracts: its body's Jacobian with respect to all floating carries, at the carried state.

    Args:
        loop: name of the loop.
        size: numbers that are carried, of all rows of the example inputs.
        steps: those that were measured; they may be some of all.
        not_measured: why there are none, or none after these; None where all that were asked for are there.
    """

    loop: str
    size: int
    steps: tuple[JacobianStep, ...] = ()
    not_measured: str | None = None

    @property
    def contracting(self) -> bool | None:
        """Whether the last step has all eigenvalues inside the unit circle.

        None where it was not measured, or is not `JacobianStep.decided`.
        """
        measured = bool(self.steps) and self.not_measured is None
        return self.steps[-1].radius < 1.0 if measured and self.steps[-1].decided else None


@dataclass(frozen=True)
class MemoryArm:
    """Bytes that one way of training holds for backward, by class of operator.

    Args:
        name: ``"eager"``, or the memory option of the plan: ``"laser"``, ``"lean"``, ``"min"``, ``"0.3"``.
        classes: class (``"linear"``, ``"attention"``, ``"norm"``, ``"elementwise"``, ``"other"``) → bytes.
        time: of one training step, over eager's; None where not measured.
        gradient_error: relative error of the gradient that is worst off; 0.0 for exact plans, None where not measured.

    >>> MemoryArm("lean", {"linear": 300, "norm": 100}).total
    400
    """

    name: str
    classes: Mapping[str, int] = field(default_factory=dict)
    time: float | None = None
    gradient_error: float | None = 0.0

    @property
    def total(self) -> int:
        """Bytes of all classes."""
        return sum(self.classes.values())


@dataclass(frozen=True)
class OnnxSize:
    """An exported file.

    Args:
        form: ``"rolled"``, ``"functions"``, ``"step"`` or ``"unrolled"``.
        bytes: of the file, its weights and parts beside it included; None where it was refused.
        nodes: of all graphs and functions in it, each counted once.
        refused: why there is none.
    """

    form: str
    bytes: int | None = None
    nodes: int | None = None
    refused: str | None = None


@dataclass(frozen=True)
class PictureNode:
    """One operator of the rolled graph, or an input or output of it.

    Args:
        name: unique in the picture.
        label: what a person calls it: ``linear``, ``softmax``, ``z_H``.
        kind: ``"input"``, ``"operator"`` or ``"output"``.
        inputs: names of the nodes that it reads.
        loop: name of the innermost loop around it; empty outside of loops.
        module: path of the module that it is of, ``layers.0.mlp``; empty for the model's own.
        site: key of its site, empty where it is none.
        carried: names of the nodes whose value of the step before it reads, for inputs of a loop's body.
        shape: as text, ``float32[s0, 36, 256]``; empty where unknown.
    """

    name: str
    label: str
    kind: str = "operator"
    inputs: tuple[str, ...] = ()
    loop: str = ""
    module: str = ""
    site: str = ""
    carried: tuple[str, ...] = ()
    shape: str = ""


@dataclass(frozen=True)
class GraphPicture:
    """The rolled graph, to be drawn: loops and modules are boxes, by the nodes' ``loop`` and ``module``.

    Args:
        nodes: in program order, bodies in the place of their loop.
        left_out: how many operators more there are; a picture shows the first ones, up to a limit.
    """

    nodes: tuple[PictureNode, ...] = ()
    left_out: int = 0
