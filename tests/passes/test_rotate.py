from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import fx

from laser_fx.passes.collapse import Run
from laser_fx.passes.normalise import Item, Ref
from laser_fx.passes.rotate import rotations


def items(reads: list[list[int]], steps: int) -> list[Item]:
    """Steps whose item m reads what was made so many items before; before the first step there is nothing to read."""
    made = []
    for index in range(len(reads) * steps):
        args: tuple[Ref, ...] = tuple((max(index - back, -1), 0) for back in reads[index % len(reads)])
        made.append(Item(index % len(reads), args, None, False))
    return made


def carry(found: list[Item], run: Run) -> int:
    second = range(run.start + run.period, run.start + 2 * run.period)
    return len({ref for i in second for ref in found[i].args if run.start <= ref[0] < run.start + run.period})


def test_the_narrowest_carry_comes_first() -> None:
    # Item 0 reads what item 2 of the step before made; item 2 reads items 0 and 1 of its own step.
    found = items([[1], [1], [1, 2]], 5)
    first = next(rotations(found, Run(3, 3, 3), 2))
    assert carry(found, first) == 1


def test_shifts_are_ranked_by_the_width_of_their_carry() -> None:
    draw = random.Random(0)
    for _ in range(50):
        period = draw.randint(1, 6)
        reads = [[draw.randint(1, period) for _ in range(draw.randint(1, 3))] for _ in range(period)]
        found = items(reads, 6)
        shifted = list(rotations(found, Run(period, period, 3), period - 1))
        assert {run.start for run in shifted} == set(range(period, 2 * period))
        widths = [carry(found, run) for run in shifted]
        assert widths == sorted(widths)


def test_without_slack_there_is_one_place() -> None:
    assert list(rotations(items([[1], [1]], 4), Run(0, 2, 4), 0)) == [Run(0, 2, 4)]


def test_a_carry_without_tuples_comes_before_a_narrower_one() -> None:
    # Item 0 makes a tuple that items 1 and 2 of its step take apart; item 3 reads both parts, item 0 the item before.
    found = items([[1], [1], [2], [1, 2]], 4)
    parts = fx.Graph().call_function(torch.split)
    parts.meta["val"] = (torch.ones(1), torch.ones(1))
    found = [replace(item, node=parts) if index % 4 == 0 else item for index, item in enumerate(found)]
    starts = [run.start for run in rotations(found, Run(1, 4, 3), 3)]
    assert starts[:2] == [4, 3]
    assert starts[-1] in (1, 2)
