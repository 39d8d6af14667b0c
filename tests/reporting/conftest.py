"""A made-up report with the shape of a real one: ACT ⊃ H ⊃ L, every kind of step."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from laser_fx.loops import Loop, LoopNest, NearMiss, Site, Step
from laser_fx.memory.plan import Plan, PlanRow
from laser_fx.options import Options
from laser_fx.reporting import (
    CarryTrajectory,
    Flops,
    GraphPicture,
    GraphSize,
    JacobianStep,
    LoopDynamics,
    MemoryArm,
    OnnxSize,
    PictureNode,
    Report,
    SavedBytes,
    SiteReport,
    StepSpectrum,
    TrajectoryStep,
    environment,
)

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


def full_report(act: int = 16) -> Report:
    """The same with everything that can be measured, and its untrained control."""
    report = sample_report(act)
    sites = tuple(replace(site, spectra=_spectra(site)) for site in report.sites)
    measured = replace(
        report,
        sites=sites,
        trajectories=tuple(
            _trajectory(loop.name, carry, act * 18) for loop in report.loops.walk() for carry in loop.carry
        ),
        dynamics=(
            LoopDynamics("loop_0", 165_888, tuple(_jacobian(step, 0.7) for step in range(act))),
            LoopDynamics("loop_0_0", 165_888, tuple(_jacobian(step, 0.95) for step in range(0, 3 * act, 4))),
            LoopDynamics("loop_0_0_0", 82_944, not_measured="the body draws random numbers"),
        ),
        memory=tuple(
            _arm(name, share) for name, share in {"eager": 1.0, "laser": 0.82, "lean": 0.52, "min": 0.05}.items()
        ),
        plan=_plan(),
        onnx=(
            OnnxSize("rolled", 8_110_000, 233),
            OnnxSize("functions", 8_190_000, 402),
            OnnxSize("step", 8_400_000, 318),
            OnnxSize("unrolled", refused="27,440 nodes are more than the 5,000 that were allowed"),
        ),
        picture=_picture(),
    )
    return replace(measured, control=replace(measured, picture=None, plan=None, onnx=()))


def _spectra(report: SiteReport) -> tuple[StepSpectrum, ...]:
    made = []
    for step in range(report.site.steps):
        decay = 0.75 + 0.2 * math.exp(-step / 40)
        energies = [decay**position for position in range(24)]
        values = tuple(math.sqrt(energy / (1.05 * sum(energies))) for energy in energies)
        ranks = tuple(min(report.site.features, round(count / (1 - decay))) for count in (2, 3, 5, 8))
        drift = None if step == 0 else 1.2 / (1 + step / 8)
        centred = tuple(rank + 1 for rank in ranks)
        made.append(StepSpectrum(step, values, ranks, centred, 0.4, drift, None if drift is None else drift / 2))
    return tuple(made)


def _trajectory(loop: str, carry: str, steps: int) -> CarryTrajectory:
    moved = [(step, 1.2 * math.exp(-step / 30), 1 - 1e-4 * step, 1e-3 * math.sqrt(step)) for step in range(steps)]
    return CarryTrajectory(loop, carry, tuple(TrajectoryStep(*values) for values in moved))


def _jacobian(step: int, radius: float) -> JacobianStep:
    largest = radius + 0.4 * math.exp(-step / 5)
    pair = (0.6 * largest, 0.8 * largest)
    return JacobianStep(step, (pair, (pair[0], -pair[1]), (0.5 * radius, 0.0)), (1e-4, 1e-4, 3e-3), 2.1 * largest)


def _arm(name: str, share: float) -> MemoryArm:
    parts = {"elementwise": 0.41, "attention": 0.27, "linear": 0.23, "norm": 0.08, "other": 0.01}
    return MemoryArm(name, {kind: round(412_000_000 * share * part) for kind, part in parts.items()}, 1 + 0.1 * share)


def _plan() -> Plan:
    codecs = ("exact", "recompute", "int8", "lowrank")
    rows = tuple(
        PlanRow(
            "loop_0_0_0", f"silu_{i}", "aten.silu", (162, 768), codecs[i % 4], 9_000_000 + i, 4_000_000 - i, 1e-4 * i
        )
        for i in range(12)
    )
    return Plan(rows, 412_000_000, 214_000_000)


def _picture() -> GraphPicture:
    nodes = [PictureNode("embed", "embed", "input", shape="float32[s0, 81, 256]")]
    before = "embed"
    for layer in range(2):
        for linear in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"):
            module, name = f"layers.{layer}.{linear}", f"linear_{layer}_{linear}"
            site = f"loop_0_0_0:{module}"
            nodes.append(PictureNode(name, "linear", "operator", (before,), "loop_0_0_0", module, site))
            before = name
    nodes[1] = replace(nodes[1], carried=(before,))
    nodes.append(PictureNode("add_9", "add", inputs=(before,), loop="loop_0_0"))
    nodes.append(
        PictureNode("lm_head", "linear", inputs=("add_9",), loop="loop_0", module="lm_head", site="loop_0:lm_head")
    )
    nodes.append(PictureNode("logits", "logits", "output", ("lm_head",)))
    return GraphPicture(tuple(nodes))


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
