"""How long the passes take on long unrolled graphs: it must grow with the number of nodes, not with its square.

`pytest benchmarks/test_passes.py` prints µs a node for each pass and length, as ``us_per_node`` of its extra info.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.graphs import INNER_TRIPS, STATES, Chain
from laser_fx.passes.certificate import certify
from laser_fx.passes.detect import detect
from laser_fx.passes.normalise import normalise
from laser_fx.passes.reroll import reroll

LENGTHS = (1_000, 10_000, 50_000)


@pytest.fixture(scope="module")
def chains() -> dict[int, Chain]:
    return {length: Chain(length) for length in LENGTHS}


def passes(chain: Chain) -> dict[str, Callable[[], Any]]:
    """Each pass alone, on what the passes before it made."""
    identities = {name: name for name in STATES}
    captured = chain.graph_module
    view = normalise(captured.graph, identities, frozenset(STATES), False)
    block = detect(view)
    rolled = reroll(captured, view, block, STATES, False)
    assert rolled.nest.trips() == ((0, chain.trips), (1, INNER_TRIPS))
    return {
        "normalise": lambda: normalise(captured.graph, identities, frozenset(STATES), False),
        "detect": lambda: detect(view),
        "reroll": lambda: reroll(captured, view, block, STATES, False),
        "certify": lambda: certify(captured, rolled.graph_module, identities, frozenset(STATES), False),
    }


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", ["normalise", "detect", "reroll", "certify"])
def test_time_of_a_pass(benchmark: Any, chains: dict[int, Chain], name: str, length: int) -> None:
    run = passes(chains[length])[name]
    benchmark.pedantic(run, rounds=2)
    nodes = len(chains[length].graph.nodes)
    benchmark.extra_info["us_per_node"] = round(benchmark.stats.stats.min * 1e6 / nodes, 1)
