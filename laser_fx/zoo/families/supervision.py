"""Deep supervision: a Tiny Recursive Model that answers after every supervision step."""

from __future__ import annotations

from torch import Tensor, nn

from laser_fx.zoo.trm import TRM, InnerCarry

__all__ = ["DeepSupervision"]


class DeepSupervision(nn.Module):
    """``steps`` supervision steps from the initial carry, as training has them: every step's logits are returned.

    The states are detached from step to step, so that each step's loss has gradients through that step alone. Input
    (batch, seq_len) of token numbers, output the states after the last step, detached, and a list of logits
    (batch, seq_len, vocab_size). For the last step's logits alone, see `laser_fx.zoo.trm.Solve`.

    >>> import torch
    >>> from laser_fx.zoo.trm import TRMConfig
    >>> model = TRM(TRMConfig(seq_len=4, vocab_size=5, H_cycles=1, L_cycles=2, hidden_size=16, num_heads=2)).eval()
    >>> carry, answers = DeepSupervision(model, steps=3)(torch.ones(2, 4, dtype=torch.int64))
    >>> len(answers), tuple(answers[0].shape), tuple(carry.z_H.shape)
    (3, (2, 4, 5), (2, 4, 16))
    """

    def __init__(self, trm: TRM, steps: int) -> None:
        super().__init__()
        self.trm, self.steps = trm, steps

    def forward(self, inputs: Tensor) -> tuple[InnerCarry, list[Tensor]]:
        batch = {"inputs": inputs, "puzzle_identifiers": inputs.new_zeros(inputs.shape[0])}
        carry = self.trm.initial_carry(batch).inner_carry
        answers = []
        for _ in range(self.steps):
            carry, logits, _ = self.trm.inner(carry, batch)
            answers.append(logits)
        return carry, answers
