"""The table of arms: one line for each way to train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import laser_fx
from benchmarks.training import peers
from laser_fx.errors import OptionError

__all__ = ["ARMS", "EAGER", "Arm", "Missing", "arm"]

Maker = Callable[..., Any]


class Missing(Exception):
    """An arm that this version cannot run, or that the case does not allow, and why."""


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        name: in tables.
        short: in pictures.
        make: from a model of its own and example inputs, what is called as the model is.
        ours: laser-fx's, or a peer.
        engine: ``"eager"`` runs operators one by one, ``"inductor"`` runs what inductor made of them.
        exact: gradients are eager's, up to the order of sums where inductor changes it.
        level: 0 runs on every case, higher ones where steps are short enough; see `Case.level`.
    """

    name: str
    short: str
    make: Maker
    ours: bool = False
    engine: Literal["eager", "inductor"] = "eager"
    exact: bool = True
    level: int = 3


def _peer(change: Callable[..., Any], *args: Any, **options: Any) -> Maker:
    return lambda model, *inputs: change(model, *args, **options)


def _plan(**options: Any) -> Maker:
    """Compiled by laser-fx under these options. A model that is compiled already is not captured again.

    Raises:
        Missing: this version has no such option, or no plan meets the budget.
    """

    def make(model: Any, *inputs: Any) -> Any:
        try:
            wanted = laser_fx.Options.exact(**options)
            if isinstance(model, laser_fx.CompiledModel):
                return model.with_options(wanted)
            return laser_fx.compile(model, inputs, options=wanted)
        except (OptionError, TypeError) as error:
            if isinstance(error, TypeError) and "unexpected keyword" not in str(error):
                raise
            asked = ", ".join(f"{name}={value!r}" for name, value in options.items())
            raise Missing(f"{asked}: {str(error).splitlines()[0]}") from error

    return make


_peer_arm = partial(Arm, ours=False)
_compiled_arm = partial(Arm, ours=False, engine="inductor")
_our_arm = partial(Arm, ours=True)
EAGER = _peer_arm("eager", "eager", lambda model, *inputs: model, level=0)
_EAGER_PEERS = (
    EAGER,
    _peer_arm("checkpoint per block", "ckpt block", _peer(peers.per_block), level=0),
    _peer_arm("checkpoint per net call", "ckpt net call", _peer(peers.per_net_call), level=2),
    _peer_arm(
        "selective checkpoint: products and attention",
        "sac products",
        _peer(peers.per_block, (*peers.PRODUCTS, *peers.ATTENTION)),
        level=2,
    ),
    _peer_arm("selective checkpoint: attention", "sac attention", _peer(peers.per_block, peers.ATTENTION), level=4),
    _peer_arm("saved tensors in int8", "int8 hooks", _peer(peers.int8_saved), exact=False),
)
_INDUCTOR_PEERS = (
    _compiled_arm("torch.compile", "compile", _peer(peers.compiled_by_inductor), level=1),
    *(
        _compiled_arm(
            f"torch.compile, budget {budget}",
            f"compile {budget}",
            _peer(peers.compiled_by_inductor, budget),
            level=4,
        )
        for budget in (0.5, 0.3, 0.1)
    ),
    *(
        _compiled_arm(
            f"torch.compile per net call, budget {budget}",
            f"net call {budget}",
            _peer(peers.compiled_by_inductor, budget, each_call=True),
            level=level,
        )
        for budget, level in ((0.5, 3), (0.3, 3), (0.1, 0))
    ),
    _compiled_arm(
        "torch.compile and checkpoint per net call",
        "ckpt compiled net call",
        _peer(peers.per_compiled_net_call),
        level=1,
    ),
)
_OURS = (
    *(
        _our_arm(f"laser-fx {name}", name, _plan(memory=memory), level=level)
        for name, memory, level in (
            ("lean", "lean", 0),
            ("0.45", 0.45, 4),
            ("0.30", 0.30, 0),
            ("0.05", 0.05, 0),
            ("min", "min", 3),
        )
    ),
    *(
        _our_arm(
            f"laser-fx {name}, torch's kernels", f"{name} torch", _plan(memory=memory, products="eager"), level=level
        )
        for name, memory, level in (("lean", "lean", 3), ("0.30", 0.30, 3), ("0.05", 0.05, 2))
    ),
    *(
        _our_arm(
            f"laser-fx min, approximate {error}",
            f"min {error}",
            _plan(memory="min", approximate=True, max_gradient_error=error),
            exact=False,
            level=level,
        )
        for error, level in ((0.01, 4), (0.1, 0))
    ),
    *(
        _our_arm(
            f"laser-fx LASER + lean{kernels}",
            f"LASER + lean{short}",
            _plan(memory="lean", approximate=True, codecs=("lowrank",), max_gradient_error=0.04, **options),
            exact=False,
            level=level,
        )
        for kernels, short, options, level in (
            ("", "", {}, 3),
            (", torch's kernels", " torch", {"products": "eager"}, 2),
        )
    ),
    _our_arm("laser-fx LASER", "LASER", _plan(memory="laser"), exact=False, level=3),
)
_OURS_BY_INDUCTOR = (
    *(
        _our_arm(
            f"laser-fx {name}, by inductor",
            f"{name} inductor",
            _plan(memory=memory, kernels="inductor"),
            engine="inductor",
            level=level,
        )
        for name, memory, level in (("lean", "lean", 3), ("0.30", 0.30, 3), ("0.05", 0.05, 1), ("min", "min", 4))
    ),
    _our_arm(
        "laser-fx min, approximate 0.1, by inductor",
        "min 0.1 inductor",
        _plan(memory="min", approximate=True, max_gradient_error=0.1, kernels="inductor"),
        exact=False,
        engine="inductor",
        level=4,
    ),
)
ARMS: tuple[Arm, ...] = (*_EAGER_PEERS, *_OURS, *_INDUCTOR_PEERS, *_OURS_BY_INDUCTOR)


def arm(name: str) -> Arm:
    """The arm of that name."""
    return next(each for each in ARMS if each.name == name)
