from __future__ import annotations

import pytest
import torch
from torch import Tensor

from laser_fx.demo.arms import Arm, measure_arm

INPUTS = torch.arange(6).reshape(3, 2) % 2


def right(rows: Tensor) -> Tensor:
    """Logits whose largest entry is the input itself."""
    return torch.nn.functional.one_hot(rows, 2).float()


def wrong_in_one_cell(rows: Tensor) -> Tensor:
    answer = rows.clone()
    answer[0, 0] = 1 - answer[0, 0]
    return right(answer)


def test_a_puzzle_counts_only_if_every_cell_is_right() -> None:
    arm = measure_arm("some", wrong_in_one_cell, INPUTS, INPUTS, None)
    assert (arm.score.solved, arm.score.count) == (2, 3)


def test_agreement_is_with_the_reference_whatever_the_labels() -> None:
    reference = measure_arm("eager", right, INPUTS, 1 - INPUTS, None)
    assert reference.score.solved == 0
    assert measure_arm("same", right, INPUTS, 1 - INPUTS, reference).agreement == 1.0
    assert measure_arm("other", wrong_in_one_cell, INPUTS, 1 - INPUTS, reference).agreement == pytest.approx(2 / 3)


def test_an_arm_as_json_has_its_interval_and_no_logits() -> None:
    arm: Arm = measure_arm("eager", right, INPUTS, INPUTS, None, site_flops=0.5)
    plain = arm.to_dict()
    assert plain["solved"] == plain["puzzles"] == 3
    assert plain["interval_95"][1] == pytest.approx(1.0)
    assert plain["site_flops"] == 0.5
    assert "logits" not in plain
