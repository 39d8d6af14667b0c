"""The models and batches that are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from laser_fx.zoo.trm import TRM, Batch, Carry, TRMConfig

__all__ = ["CASES", "QUICK", "Case", "cuda_cases"]

PUBLISHED = TRMConfig(seq_len=81, vocab_size=11, halt_exploration_prob=0.0)
SMALL = replace(PUBLISHED, hidden_size=128, num_heads=2)


@dataclass(frozen=True)
class Case:
    """One model, one batch, one device.

    Args:
        name: as the command takes it.
        config: the model. ``config.full_gradient`` decides between the published gradient and full backpropagation.
        batch: sequences.
        repeats: timed steps of every arm.
        level: arms of a higher level are left out: a step takes long here.
        device: ``"cpu"`` or ``"cuda"``.
        autocast: compute in bfloat16 under autocast.
    """

    name: str
    config: TRMConfig
    batch: int
    repeats: int
    level: int = 4
    device: str = "cpu"
    autocast: bool = False

    @property
    def title(self) -> str:
        """For people.

        >>> CASES[0].title
        'D = 512, 81 tokens, batch 4, last cycle'
        """
        cycles = "all cycles" if self.config.full_gradient else "last cycle"
        on = f", {self.device} {'bf16 autocast' if self.autocast else 'fp32'}" if self.device != "cpu" else ""
        return f"D = {self.config.hidden_size}, {self.config.seq_len} tokens, batch {self.batch}, {cycles}{on}"

    def model(self) -> TRM:
        """The model, with the same weights at every call."""
        torch.manual_seed(0)
        return TRM(self.config).to(self.device).train()

    def inputs(self, model: TRM) -> tuple[Carry, Batch]:
        """A fresh carry and a batch, the same at every call."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch, self.config.seq_len)
        batch = {
            "inputs": torch.randint(1, self.config.vocab_size, shape, generator=generator).to(self.device),
            "puzzle_identifiers": torch.zeros(self.batch, dtype=torch.int64, device=self.device),
        }
        return model.initial_carry(batch), batch

    @contextlib.contextmanager
    def precision(self) -> Iterator[None]:
        """Where forward runs, and where a model is compiled."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            yield


FULL = replace(PUBLISHED, full_gradient=True)
LONG, LONG_FULL = replace(PUBLISHED, seq_len=900), replace(FULL, seq_len=900)
QUICK = (
    Case("128x81-last", SMALL, batch=4, repeats=5),
    Case("128x81-all", replace(SMALL, full_gradient=True), batch=4, repeats=5),
)
CASES = (
    Case("512x81-last", PUBLISHED, batch=4, repeats=5),
    Case("512x81-all", FULL, batch=4, repeats=3, level=3),
    Case("512x900-last", LONG, batch=1, repeats=2, level=1),
    Case("512x900-all", LONG_FULL, batch=1, repeats=2, level=0),
)


def cuda_cases(cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The same on a GPU, in fp32 and under bf16 autocast, with every arm: steps are short there."""
    return tuple(
        replace(case, name=f"{case.name}-cuda-{kind}", device="cuda", autocast=kind == "bf16", repeats=20, level=4)
        for case in cases
        for kind in ("fp32", "bf16")
    )
