"""Reports that are larger than real ones: for what a page does with them."""

from __future__ import annotations

import random

from laser_fx.loops import Loop, LoopNest, Site, Step
from laser_fx.reporting import (
    CarryTrajectory,
    GraphPicture,
    JacobianStep,
    LoopDynamics,
    PictureNode,
    Report,
    SiteReport,
    StepSpectrum,
    TrajectoryStep,
)

__all__ = ["large", "sited"]


def large(sites: int = 100, steps: int = 500, spectra: int = 32) -> Report:
    """Every step of every site measured, spectra at some, a picture of 2,000 operators."""
    rng = random.Random(0)
    names = [f"layers.{i // 4}.{('qkv', 'o', 'up', 'down')[i % 4]}_proj" for i in range(sites)]
    return Report(
        "Large",
        LoopNest((Loop("loop_0", steps, carry=("z: float32[s0, 64, 512]",)),)),
        tuple(_site(rng, name, steps, spectra) for name in names),
        trajectories=(CarryTrajectory("loop_0", "z: float32[s0, 64, 512]", tuple(map(_moved, range(steps)))),),
        dynamics=(LoopDynamics("loop_0", 65_536, tuple(_jacobian(step) for step in range(0, steps, steps // 8 or 1))),),
        picture=_picture(names),
    )


def sited(sites: int) -> Report:
    """Many sites and nothing else."""
    found = (Site(f"blocks.{i}.mlp.down", "loop_0", f"blocks.{i}.w", 8, 64, 64, 4, i % 64) for i in range(sites))
    steps = (Step(0.9999, 4, False, False, False), Step(0.9, 64, True, True, True))
    return Report("Many", LoopNest((Loop("loop_0", 4),)), tuple(SiteReport(site, steps) for site in found))


def _site(rng: random.Random, name: str, steps: int, spectra: int) -> SiteReport:
    site = Site(name, "loop_0", f"{name}.weight", 1024, 512, 1536, steps, 64)
    at = range(0, steps, max(1, steps // spectra))
    return SiteReport(
        site,
        tuple(_step(rng) for _ in range(steps)),
        (8, 16, 40, 64),
        energy=0.9993,
        flops_share=0.01,
        spectra=tuple(_spectrum(rng, step) for step in at),
    )


def _step(rng: random.Random) -> Step:
    what = rng.random()
    fidelity = round(1 - 10 ** -rng.uniform(3.05, 4.6), 7)
    return Step(fidelity, rng.randint(20, 64), what < 0.2, what < 0.05, what < 0.01)


def _spectrum(rng: random.Random, step: int) -> StepSpectrum:
    values = sorted((float(f"{rng.random():.6g}") / 8 for _ in range(24)), reverse=True)
    ranks = (8, 16, 40, rng.randint(50, 64))
    return StepSpectrum(step, tuple(values), ranks, ranks, 0.3, 0.1 if step else None, 0.05 if step else None)


def _moved(step: int) -> TrajectoryStep:
    return TrajectoryStep(step, 1 / (1 + step))


def _jacobian(step: int) -> JacobianStep:
    return JacobianStep(step, ((0.9, 0.1), (0.9, -0.1)), (1e-4, 1e-4), 1.4)


def _picture(names: list[str]) -> GraphPicture:
    nodes = [PictureNode("z", "z", "input", loop="loop_0")]
    for i in range(2_000):
        name = names[i * len(names) // 2_000]
        site = f"loop_0:{name}" if i == 0 or name != names[(i - 1) * len(names) // 2_000] else ""
        label = "linear" if site else ("mul", "add", "view", "softmax")[i % 4]
        nodes.append(PictureNode(f"n{i}", label, inputs=(nodes[-1].name,), loop="loop_0", module=name, site=site))
    nodes[0] = PictureNode("z", "z", "input", loop="loop_0", carried=(nodes[-1].name,))
    return GraphPicture(tuple(nodes))
