"""A training run that can stop and go on, here or in another process: ``python -m tests.training.resumed DIR LAST``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.training.loops import TRM, compiled_task

__all__ = ["go_on", "losses_of", "run", "save", "started"]

MEMORIES = ("lean", 0.3, 0.05)


def started(memory: Any) -> tuple[Any, Any, torch.optim.Optimizer]:
    """What is called, the model, and an optimiser; all from the same seed."""
    made = compiled_task(TRM, memory)
    torch.manual_seed(1)
    return made, made._model, torch.optim.AdamW(made.parameters(), lr=1e-2)


def run(what: Any, module: Any, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses of so many steps; the batches come from torch's generator."""
    losses = []
    for _ in range(steps):
        loss = TRM.loss(what, module, TRM.batch(4))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def save(module: Any, optimiser: torch.optim.Optimizer, folder: Path) -> None:
    """Weights as safetensors, the optimiser's state and the generator's as plain containers of tensors."""
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")
    torch.save({"optimiser": optimiser.state_dict(), "generator": torch.get_rng_state()}, folder / "rest.pt")


def go_on(memory: Any, folder: Path, steps: int) -> list[float]:
    """Losses of further steps after what `save` wrote."""
    what, module, optimiser = started(memory)
    what.load_state_dict(load_file(folder / "model.safetensors"))
    rest: dict[str, Any] = torch.load(folder / "rest.pt", weights_only=True)
    optimiser.load_state_dict(rest["optimiser"])
    generator: Tensor = rest["generator"]
    torch.set_rng_state(generator)
    return run(what, module, optimiser, steps)


def losses_of(printed: str) -> list[float]:
    """Read what `main` printed."""
    return [float.fromhex(word) for word in printed.split()]


def main() -> None:
    torch.set_num_threads(1)
    folder, memory, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    losses = go_on(memory if memory == "lean" else float(memory), folder, steps)
    print(*(loss.hex() for loss in losses))


if __name__ == "__main__":
    main()
