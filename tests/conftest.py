from __future__ import annotations

import hypothesis
import pytest
import torch

# Tensors are small here: a second thread costs more than it brings, and spins where the machine has other work.
torch.set_num_threads(1)

# The same examples in every run, and however long one takes on a busy machine.
hypothesis.settings.register_profile("laser-fx", derandomize=True, deadline=None)
hypothesis.settings.load_profile("laser-fx")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
