"""Models of the zoo with inputs to try them on, each made by one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from laser_fx.zoo import families
from laser_fx.zoo.checkpoints import held_out, load, models
from laser_fx.zoo.trm import TRM, Solve, TRMConfig

__all__ = ["EXAMPLES"]

Example = tuple[nn.Module, tuple[Any, ...]]
Make = Callable[..., Example]
_VOCABULARY, _LENGTH, _WIDTH = 7, 4, 16
_STEPS = 2


def _trained(name: str) -> Make:
    """A trained model: two supervision steps as one call, on puzzles that were kept out of its training."""

    def make(batch: int = 12, seed: int = 0) -> Example:
        return Solve(load(name), _STEPS).eval(), (held_out(name, batch, seed)["inputs"],)

    return make


def _untrained(model: Callable[[], nn.Module], *inputs: tuple[int, ...]) -> Make:
    """A small model with random weights, on tokens, or on floats (batch, *sizes) for each of ``inputs``."""

    def make(batch: int = 4) -> Example:
        floats = tuple(torch.randn(batch, *sizes) for sizes in inputs)
        tokens = torch.randint(1, _VOCABULARY, (batch, _LENGTH))
        return model().eval(), floats or (tokens,)

    return make


def _trm() -> nn.Module:
    schedule = TRMConfig(_LENGTH, _VOCABULARY, H_cycles=3, L_cycles=3, L_layers=1, hidden_size=32, num_heads=2)
    return Solve(TRM(schedule), _STEPS)


EXAMPLES: Mapping[str, Make] = MappingProxyType(
    {
        **{name: _trained(name) for name in models()},
        "trm": _untrained(_trm),
        "hrm": _untrained(families.HRM),
        "huginn": _untrained(families.Huginn),
        "looped_gpt": _untrained(families.LoopedGPT),
        "universal": _untrained(families.UniversalTransformer, (_LENGTH, _WIDTH)),
        "universal_adaptive": _untrained(families.AdaptiveUniversalTransformer, (_LENGTH, _WIDTH)),
        "gru": _untrained(families.UnrolledGRU, (5, 6)),
        "lstm": _untrained(families.UnrolledLSTM, (5, 6)),
        "automaton": _untrained(families.CellularAutomaton, (6, 5, 5)),
        "equilibrium": _untrained(families.UnrolledEquilibrium, (8,)),
        "descent": _untrained(families.UnrolledDescent, (6,)),
        "raft": _untrained(families.RAFT, (3, 6, 6), (3, 6, 6)),
        "repeated_module": _untrained(families.RepeatedModule, (_LENGTH, _WIDTH)),
        "tied_parameters": _untrained(families.TiedParameters, (_LENGTH, _WIDTH)),
    }
)
"""Name → a function of ``batch`` that makes ``(model, example_inputs)``; those of trained models take a ``seed`` too.

>>> model, (x,) = EXAMPLES["universal"](batch=3)
>>> tuple(model(x).shape)
(3, 4, 16)
"""
