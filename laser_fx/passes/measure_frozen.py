"""Nodes that measure what a fixed basis keeps at a step, in plain operators without a branch.

With the objective ``"activation"`` that is exact: ``‖XQ‖²/‖X‖²`` for orthonormal columns. With ``"output"`` the step
never makes Y = XWᵀ, so its error is estimated: for r Gaussian probes Ω, ``‖XWᵀ(I − VVᵀ)Ω‖²/r`` has the mean
``‖Y − ŶY‖²``, and ``‖Ŷ‖² = ‖XWᵀV‖²`` is known exactly. The estimate of the lost share is off by a factor of
``1 ± √(2/r)`` where one direction holds all that is lost, and by less where more do; r is `PROBES`.
With ``"answer"`` the same holds of both norms after Y was weighed by the gradients that calibration saw.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from laser_fx import subspace
from laser_fx.calibration import Objective
from laser_fx.folded_ops import PROBES
from laser_fx.passes.rewrite_sites import Emitter

__all__ = ["PROBES", "lost_probes", "rank_tail", "record"]

aten = torch.ops.aten

"""Probes of an output's error."""

_FLAGS = 3
"""A step through a fixed basis never tracks, resets, or falls back to exact."""


def lost_probes(basis: Tensor, seed: str, dual: Tensor | None = None, probes: Tensor | None = None) -> Tensor:
    """Random directions of the outputs without what a basis keeps of them, ``((I − SUᵀ)Ω)ᵀ/√r``.

    Args:
        basis: S (…, F, k).
        seed: a name; the same name gives the same directions.
        dual: U (…, F, k); S itself where its columns are orthonormal.
        probes: Ω (…, F, r), where the error is weighed; Gaussian where it is not.

    Returns:
        (…, r, F) float32.

    >>> bool(lost_probes(torch.eye(5), "all is kept").any())
    False
    """
    omega = subspace.sketch(basis.shape[-2], PROBES, f"probes {seed}").to(basis) if probes is None else probes
    outside: Tensor = (omega - basis @ ((basis if dual is None else dual).mT @ omega)) / omega.shape[-1] ** 0.5
    return outside.mT.contiguous()


def rank_tail(emit: Emitter, rank: int, device: torch.device, name: str) -> fx.Node:
    """What follows the fidelity in a record: the rank, and no flag. (4,) float32, made once, outside of loops."""
    head = emit.call(aten.full.default, ([1], float(rank)), f"rank_{name}", dtype=torch.float32, device=device)
    return emit.call(aten.constant_pad_nd.default, (head, [0, _FLAGS]), f"tail_{name}")


def record(
    emit: Emitter, objective: Objective, x: fx.Node, kept: fx.Node, lost: fx.Node | None, tail: fx.Node, name: str
) -> fx.Node:
    """The record of a step, as `laser_fx.ops.reset` has it: (5,) float32.

    Args:
        emit: writes into the body.
        objective: of the basis.
        x: X (…, D).
        kept: coefficients (…, k).
        lost: for the other objectives: the probes' images (r, D), see `lost_probes`.
        tail: see `rank_tail`.
        name: of the site.
    """
    part = _energy(emit, kept, f"kept_{name}")
    if objective == "activation":
        whole = _energy(emit, x, f"whole_{name}")
    else:
        missed = _energy(emit, emit.call(aten.linear.default, (x, lost), f"probed_{name}"), f"missed_{name}")
        whole = emit.call(aten.add.Tensor, (part, missed), f"whole_{name}")
    fidelity = _share(emit, part, whole, name)
    return emit.call(aten.cat.default, ([fidelity, tail],), f"record_{name}")


def _energy(emit: Emitter, value: fx.Node, name: str) -> fx.Node:
    """``‖value‖²`` (1,) float32: by rows first, so that float32 adds few numbers at a time."""
    if value.meta["val"].dtype != torch.float32:
        value = emit.call(aten.to.dtype, (value, torch.float32), f"{name}_wide")
    rows = emit.call(aten.linalg_vector_norm.default, (value, 2.0, [-1]), f"{name}_rows")
    norm = emit.call(aten.linalg_vector_norm.default, (rows,), f"{name}_norm")
    flat = emit.call(aten.reshape.default, (norm, [1]), f"{name}_flat")
    return emit.call(aten.mul.Tensor, (flat, flat), name)


def _share(emit: Emitter, part: fx.Node, whole: fx.Node, name: str) -> fx.Node:
    """``part / whole``, at most 1; 1 where there is nothing to keep, NaN where there is one."""
    all_kept = emit.call(aten.ge.Tensor, (part, whole), f"all_kept_{name}")
    divided = emit.call(aten.div.Tensor, (part, whole), f"ratio_{name}")
    return emit.call(aten.where.ScalarSelf, (all_kept, 1.0, divided), f"fidelity_{name}")
