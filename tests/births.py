"""Counts the storages that operators make and that are still alive."""

from __future__ import annotations

import gc
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Births"]


def _storages(tree: Any) -> dict[StorageWeakRef, int]:
    storages = [leaf.untyped_storage() for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]
    return {StorageWeakRef(storage): storage.nbytes() for storage in storages}


class Births(TorchDispatchMode):
    """Weak references to the storages that operators make: no autograd function escapes, and no hook is needed.

    What inductor makes escapes: its code takes buffers past the dispatcher, and dynamo may run a model uncompiled under
    a dispatch mode. `benchmarks.training.allocator` counts those too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.born: dict[StorageWeakRef, int] = {}
        self.given: set[StorageWeakRef] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.given |= _storages((args, kwargs)).keys() - self.born.keys()  # a view of a weight is not born here
        result = func(*args, **(kwargs or {}))
        self.born.update({ref: size for ref, size in _storages(result).items() if ref not in self.given})
        return result

    def alive(self) -> int:
        """Bytes of those that are not freed."""
        gc.collect()
        return sum(size for storage, size in self.born.items() if not storage.expired())
