"""Look into a looped language model: what each run of its blocks does to its activations, before and after training.

The model is a small looped GPT: one block of a transformer, run six times. It learns the text of this very file,
character by character. Then its loop, the ranks of its activations, the path of its state and whether the recursion
contracts are measured, and written as a page.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import laser_fx
from laser_fx.reporting import Report
from laser_fx.zoo.families import LoopedGPT

LENGTH = 48


def characters() -> tuple[Tensor, int]:
    """This file as numbers, and how many different ones there are."""
    text = Path(__file__).read_text("utf-8")
    known = sorted(set(text))
    return torch.tensor([known.index(character) for character in text]), len(known)


def windows(text: Tensor, rows: int) -> Tensor:
    """Stretches of the text, (rows, LENGTH + 1)."""
    starts = torch.randint(len(text) - LENGTH, (rows, 1))
    return text[starts + torch.arange(LENGTH + 1)]


def train(model: LoopedGPT, text: Tensor, steps: int) -> float:
    """Next characters from those before. Returns the last loss, in nats a character."""
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        batch = windows(text, rows=32)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


def measured(model: LoopedGPT, tokens: Tensor) -> Report:
    return laser_fx.inspect(model, (tokens,), measure=("picture", "spectra", "trajectories", "dynamics"))


def ranks(report: Report) -> Iterator[tuple[str, list[int]]]:
    """Each site, and the directions that hold 99 % of the energy of what it takes, at every step."""
    for found in report.sites:
        yield found.site.name, [spectrum.ranks[2] for spectrum in found.spectra]


def moves(report: Report) -> str:
    """How far the state moves in each step, of its length; the first step begins at nothing."""
    (trajectory,) = report.trajectories
    return "  ".join("–" if step.change is None else f"{step.change:.2f}" for step in trajectory.steps)


def radii(report: Report) -> str:
    """The largest eigenvalue of each step's Jacobian: above 1, a small change to the state grows."""
    (dynamics,) = report.dynamics
    return "  ".join(f"{step.radius:.2f}" for step in dynamics.steps)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("looped-lm.html"), help="the page to write")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model, to see that it runs")
    chosen = parser.parse_args(arguments)
    steps, loops, width = (2, 3, 16) if chosen.smoke else (chosen.steps, 6, 64)

    torch.manual_seed(0)
    text, vocabulary = characters()
    model = LoopedGPT(loops, layers=1, width=width, vocabulary=vocabulary, length=LENGTH, dropout=0.0)
    untrained = copy.deepcopy(model)
    print(f"trained to a loss of {train(model, text, steps):.2f} nats a character")

    tokens = windows(text, rows=8)[:, :-1].contiguous()
    reports = {name: measured(model, tokens) for name, model in (("untrained", untrained), ("trained", model))}
    print(reports["trained"].loops.tree())
    print("directions that hold 99 % of the energy, step by step")
    for name, report in reports.items():
        for site, needed in ranks(report):
            print(f"  {name:<10} {site:<16}", *(f"{rank:>4}" for rank in needed))
    for name, report in reports.items():
        print(f"how far the state moves, {name}: {moves(report)}")
        print(f"largest eigenvalue, {name}: {radii(report)}")
    print("wrote", reports["trained"].to_html(chosen.out, overwrite=True))


if __name__ == "__main__":
    main()
