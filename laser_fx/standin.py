"""A module in another one's place."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import nn

__all__ = ["StandIn"]


class StandIn(nn.Module):
    """A module that holds nothing of its own: tensors, submodules, attributes and state are the original's.

    Reading, writing, moving, saving and loading either one is doing it to both. Only hooks are two sets: those of the
    stand-in run when it is called. Subclasses give forward, and `_twin`.

    >>> class Twice(StandIn):
    ...     def forward(self, x):
    ...         return 2 * self._model(x)
    >>> linear = nn.Linear(3, 4)
    >>> twice = Twice(linear)
    >>> twice.weight is linear.weight, list(twice.state_dict()), twice.in_features
    (True, ['weight', 'bias'], 3)
    """

    _model: nn.Module

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # The very dictionaries of the original, so that both always hold the same tensors under the same names.
        self._parameters, self._buffers, self._modules = model._parameters, model._buffers, model._modules
        self._non_persistent_buffers_set = model._non_persistent_buffers_set
        self.__dict__["_model"] = model

    @property
    def training(self) -> bool:
        """Whether the original is in training mode."""
        return self._model.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_model" in self.__dict__:  # nn.Module sets it before there is an original
            self._model.training = mode

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, of the original too."""
        self._model.train(mode)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The original's."""
        return self._model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load into the original, whose tensors these are."""
        return self._model.load_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._model._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._model._apply(*args, **kwargs)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_model"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(self._model, name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__:
            super().__delattr__(name)
        else:
            delattr(self._model, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self._twin(copy.deepcopy(self._model, memo))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self._hooks(), memo))
        return other

    def _twin(self, model: nn.Module) -> Self:
        """One like this for a copy of the model."""
        return type(self)(model)

    def _hooks(self) -> dict[str, Any]:
        """What stands at this module and not at the original."""
        return {name: value for name, value in self.__dict__.items() if "_hook" in name}
