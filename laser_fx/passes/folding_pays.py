"""Whether a site is faster through a basis: the cost model.

An exact linear is one product, ``N·D·F``. Through a basis it is two narrow ones, ``N·k·(D + F)``, and all that it takes
to keep the basis honest: what is measured in every step, and what a refresh takes times how often there is one. Times
are those of one core of a present-day server with ONNX Runtime, by `benchmarks/folding.py`: a product runs at `FLOPS`
down to some 16 columns, values that are only read or copied move at `BYTES`, and every step has a `STEP` of nodes that
are there whatever the sizes. Another machine has other times but, sizes being what they are, much the same ratios.
Nothing is timed when a model is compiled: the same model gives the same graph, and the same file, every time.

Measured on CPUs alone. On a GPU branches wait for the host, so that tracked bases are rarely worth it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from laser_fx.folded_ops import PROBES
from laser_fx.loops import Site, Step

__all__ = ["Folding", "folding"]

FLOPS = 250e3
"""Floating-point operations of a product in a microsecond."""

NARROW_FLOPS = 100e3
"""Of a product with fewer than 16 columns."""

ORTHONORMALISING_FLOPS = 20e3
"""Of Gram–Schmidt, column by column."""

BYTES = 10e3
"""Bytes that are read, or read and written, in a microsecond."""

STEP = {"frozen": 5.0, "per_step": 5.0, "tracked": 15.0}
"""Microseconds of a step's nodes, whatever the sizes."""

COLUMN = 5.0
"""Microseconds of orthonormalising one more column, whatever its length."""

REFRESH = 80.0
"""Microseconds of the nodes of a power iteration, whatever the sizes."""

_MARGIN = 0.95
"""A site is approximated only where that saves at least a twentieth of its time."""

Basis = Literal["tracked", "frozen", "per_step"]


@dataclass(frozen=True)
class Folding:
    """What all steps of a site take in one call, in microseconds.

    Args:
        exact: as one product.
        folded: through its basis.

    >>> Folding(exact=100.0, folded=40.0).pays
    True
    >>> Folding(exact=100.0, folded=130.0).reason
    'a basis takes 1.3 times as long as the exact linear'
    """

    exact: float
    folded: float

    @property
    def pays(self) -> bool:
        """Whether the basis is faster, by more than the model may be wrong."""
        return self.folded < _MARGIN * self.exact

    @property
    def reason(self) -> str:
        """How the two compare, in words."""
        return f"a basis takes {self.folded / self.exact:,.1f} times as long as the exact linear"


def folding(
    site: Site,
    rank: int,
    *,
    basis: Basis = "tracked",
    objective: str = "activation",
    done: Sequence[Step] | None = None,
) -> Folding:
    """What a site takes, exactly and through a basis.

    Args:
        site: its sizes at the example inputs.
        rank: k, the columns of the basis.
        basis: ``"frozen"`` ones cost nothing but their products, ``"per_step"`` ones are also taken out of those of all
            steps; ``"tracked"`` ones are measured and refreshed.
        objective: what the basis keeps, ``"activation"`` or ``"output"``.
        done: what each step did on the example inputs; ``None``: the first step makes the basis, and all others keep
            it, which is the least that a tracked basis can take.

    >>> wide = Site("mlp.up", "loop_0", "mlp.up.weight", rows=900, features=512, outputs=3072, steps=18)
    >>> folding(wide, rank=64).pays, folding(wide, rank=500).pays
    (True, False)
    >>> folding(wide, rank=300, basis="frozen").pays
    True
    """
    n, d, f = site.rows, site.features, site.outputs
    exact = _product(n, d, f)
    kept = _product(n, d, rank) + _product(n, rank, f) + STEP[basis]
    if basis != "tracked":
        kept += _moved(rank * (d + f)) if basis == "per_step" else 0.0
        return Folding(site.steps * exact, site.steps * kept)
    kept += _product(n, d, PROBES) if objective == "output" else _moved(n * d)
    kept += _moved(2 * n * rank + rank * (d + f))  # coefficients are measured, the basis is handed on
    made = _made(site, rank, objective)
    if done is None:
        return Folding(site.steps * exact, (site.steps - 1) * kept + made.reset + kept)
    refreshed = sum(made.reset if step.reset else made.tracked if step.tracked else 0.0 for step in done)
    lost = sum(step.exact or (step.tracked and objective == "output") for step in done)
    return Folding(
        len(done) * exact, len(done) * kept + refreshed + lost * (exact if objective == "activation" else 0.0)
    )


@dataclass(frozen=True)
class _Made:
    """What a step takes more where it makes a basis: by a power iteration, or afresh when that does not do."""

    tracked: float
    reset: float


def _made(site: Site, rank: int, objective: str) -> _Made:
    n, d, f = site.rows, site.features, site.outputs
    width = f if objective == "output" else d
    power = 2 * _product(n, width, rank) + _orthonormalised(width, rank) + _product(rank, width, rank)
    fold = _product(d, f, rank)
    if objective == "output":  # Y itself, A of the new basis, and its probes
        fold += _product(n, d, f) + 2 * _product(d, f, PROBES)
    return _Made(fold + power, fold + 3 * power)


def _product(n: int, d: int, f: int) -> float:
    return 2.0 * n * d * f / (FLOPS if min(d, f) >= 16 else NARROW_FLOPS)


def _orthonormalised(width: int, rank: int) -> float:
    return 4.0 * width * rank * rank / ORTHONORMALISING_FLOPS + COLUMN * rank + REFRESH


def _moved(values: int) -> float:
    return 4.0 * values / BYTES
