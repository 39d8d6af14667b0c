"""A made-up report with the shape of a real one: ACT ⊃ H ⊃ L, every kind of step."""

from __future__ import annotations

import random

import pytest

from laser_fx.loops import Loop, LoopNest, NearMiss, Site, Step
from laser_fx.options import Options
from laser_fx.reporting import Flops, GraphSize, Report, SavedBytes, SiteReport, environment

THRESHOLD = 0.999
NEARLY = (
    "3 steps of 14 operators repeat, the 4th does not: linear_9 (layers.0.up) reads the weight <layers.1.up.weight>,"
    " where the steps before read the weight layers.0.up.weight"
)


@pytest.fixture(scope="session")
def report() -> Report:
    return sample_report()


def sample_report(act: int = 16) -> Report:
    inner = Loop(
        "loop_0_0_0",
        6,
        carry=("add_3: float32[s0, 81, 256]",),
        invariants=("add: float32[s0, 81, 256]", "add_1: float32[s0, 81, 256]"),
        parameters=tuple(f"layers.{i}.{name}.weight" for i in range(2) for name in ("qkv_proj", "o_proj")),
        source="models/trm.py:112",
    )
    middle = Loop("loop_0_0", 3, ("add_9: float32[s0, 81, 256]", "add_3: float32[s0, 81, 256]"), children=(inner,))
    outer = Loop(
        "loop_0",
        act,
        carry=("z_H: float32[s0, 81, 256]", "z_L: float32[s0, 81, 256]"),
        invariants=("embed: float32[s0, 81, 256]",),
        per_step=("step_embedding: float32[256]",),
        step_outputs=("logits: float32[s0, 81, 10]",),
        children=(middle,),
        source="models/trm.py:140",
        grad_enabled=True,
    )
    shapes = {"qkv_proj": (256, 768), "o_proj": (256, 256), "gate_up_proj": (256, 1536), "down_proj": (768, 256)}
    linears = [(f"layers.{layer}.{name}", shape) for layer in range(2) for name, shape in shapes.items()]
    sites = [_site(name, "loop_0_0_0", act * 18, *shape) for name, shape in linears]
    sites.append(_site("lm_head", "loop_0", act, 256, 10))
    return Report(
        model="TinyRecursiveModel",
        loops=LoopNest((outer,)),
        sites=tuple(sites),
        options=Options(fidelity=THRESHOLD),
        environment=environment(),
        flops=Flops(total=98_400_000_000, sites=71_300_000_000, laser=33_900_000_000),
        saved_bytes=SavedBytes(eager=412_000_000, eager_sites=97_000_000, laser=338_000_000, laser_sites=23_000_000),
        graph=GraphSize(captured=27_440, rolled=198),
        warnings=("layers.1.down_proj used the exact X at 3 of 288 steps; a higher rank would keep it in low rank",),
        near_misses=(NearMiss(3, 14, 3, "linear_9", "weight", NEARLY, "models/trm.py:88"),),
    )


def _site(name: str, loop: str, steps: int, features: int, outputs: int) -> SiteReport:
    rng = random.Random(name)
    rank = features // 4
    needed = tuple(round(rank * share) for share in (0.3, 0.45, 0.8, 1.0))
    site = Site(name, loop, f"{name}.weight", 162, features, outputs, steps, rank)
    measured = tuple(_step(rng, step, rank) for step in range(steps))
    return SiteReport(site, measured, needed, energy=0.99931, flops_share=rng.uniform(0.01, 0.14), saved_share=0.031)


def _step(rng: random.Random, step: int, rank: int) -> Step:
    exact = rng.random() < 0.008
    reset = exact or step == 0 or rng.random() < 0.02
    tracked = reset or rng.random() < 0.1 + 0.5 / (1 + step)
    fidelity = rng.uniform(0.95, 0.998) if exact else 1 - 10 ** -rng.uniform(3.05, 4.6)
    return Step(fidelity, rank if exact else rng.randint(rank // 2, rank), tracked, reset, exact)
