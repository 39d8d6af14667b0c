"""Every family of recursive models that is tested: how it is made, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AlbertConfig, AlbertModel

from laser_fx.zoo import families as zoo
from laser_fx.zoo.trm import TRM, Solve, TRMConfig
from tests.families.structures import STRUCTURES
from tests.small import WIDTH
from tests.small import model as of_parts

Inputs = Callable[[int], tuple[Tensor, ...]]
VOCABULARY, LENGTH = 7, 4


@dataclass(frozen=True)
class Family:
    """A model and its inputs.

    Args:
        title: what the table calls it.
        model: makes it, with random weights.
        inputs: makes example inputs of a batch size.
        refused_by_onnx: the operator that an exported file cannot have, None where the file is verified.
    """

    title: str
    model: Callable[[], nn.Module]
    inputs: Inputs
    refused_by_onnx: str | None = None


def tokens(batch: int) -> tuple[Tensor, ...]:
    return (torch.randint(1, VOCABULARY, (batch, LENGTH)),)


def floats(*shape: int) -> Inputs:
    return lambda batch: (torch.randn(batch, *shape),)


def config(**changes: Any) -> TRMConfig:
    sizes = {"H_cycles": 3, "L_cycles": 3, "L_layers": 1, "hidden_size": 8, "num_heads": 2, "expansion": 2}
    return TRMConfig(**{"seq_len": LENGTH, "vocab_size": VOCABULARY, **sizes, **changes})


def trm(**changes: Any) -> TRM:
    return TRM(config(**changes))


def supervised(**changes: Any) -> TRM:
    """Without attention: many supervision steps of it are captured in seconds.

    Its weights are small. Otherwise, as nobody trained it, a rounding error doubles in every few updates.
    """
    model = trm(**{"mlp_t": True, "pos_encodings": "none", "H_cycles": 2, "L_cycles": 2, **changes})
    with torch.no_grad():
        for weight in model.inner.L_level.parameters():
            weight.mul_(0.5)
    return model


class Albert(nn.Module):
    """ALBERT of `transformers`; returns the last hidden states (batch, length, width)."""

    def __init__(self, **changes: int) -> None:
        super().__init__()
        sizes = {"hidden_size": 8, "embedding_size": 4, "intermediate_size": 16, "num_attention_heads": 2}
        settings = AlbertConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes, **changes)
        self.albert = AlbertModel(settings, add_pooling_layer=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.albert(inputs).last_hidden_state


def images(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 3, 6, 6), torch.randn(batch, 3, 6, 6)


def with_state(batch: int) -> tuple[Tensor, ...]:
    return (*tokens(batch), torch.randn(batch, LENGTH, 16))


FAMILIES: dict[str, Family] = {
    "trm_attention": Family("TRM, attention", lambda: Solve(trm(), steps=1), tokens),
    "trm_mlp_t": Family("TRM, mlp_t", lambda: Solve(supervised(H_cycles=3, L_cycles=3), steps=1), tokens),
    "trm_single_z": Family("TRM, single z", lambda: zoo.SingleLatent(config(mlp_t=True, pos_encodings="none")), tokens),
    "trm_many_z": Family(
        "TRM, three latents in a list", lambda: zoo.ManyLatents(config(mlp_t=True, pos_encodings="none")), tokens
    ),
    "hrm": Family("HRM", zoo.HRM, tokens),
    "supervision_1": Family("deep supervision, 1 step", lambda: zoo.DeepSupervision(supervised(), 1), tokens),
    "supervision_2": Family("deep supervision, 2 steps", lambda: zoo.DeepSupervision(supervised(), 2), tokens),
    "supervision_16": Family("deep supervision, 16 steps", lambda: zoo.DeepSupervision(supervised(), 16), tokens),
    "supervision_2_last": Family(
        "deep supervision, 2 steps, last logits", lambda: Solve(supervised(H_cycles=1), 2), tokens
    ),
    "supervision_16_last": Family(
        "deep supervision, 16 steps, last logits", lambda: Solve(supervised(H_cycles=1), 16), tokens
    ),
    "albert": Family("ALBERT", lambda: Albert(num_hidden_layers=4), tokens),
    "albert_groups": Family("ALBERT, two groups", lambda: Albert(num_hidden_layers=6, num_hidden_groups=2), tokens),
    "albert_inner": Family("ALBERT, two inner layers", lambda: Albert(num_hidden_layers=4, inner_group_num=2), tokens),
    "universal_learned": Family(
        "universal transformer, learned steps",
        lambda: zoo.UniversalTransformer(embedding="learned"),
        floats(LENGTH, 16),
    ),
    "universal_sinusoidal": Family(
        "universal transformer, sinusoidal steps", zoo.UniversalTransformer, floats(LENGTH, 16)
    ),
    "universal_adaptive": Family(
        "universal transformer, adaptive halting", zoo.AdaptiveUniversalTransformer, floats(LENGTH, 16)
    ),
    "huginn": Family("Huginn, state given", zoo.Huginn, with_state),
    "huginn_random": Family("Huginn, state drawn", zoo.Huginn, tokens, refused_by_onnx="randn_like"),
    "looped_gpt": Family("looped GPT", zoo.LoopedGPT, tokens),
    "gru": Family("GRU over time", zoo.UnrolledGRU, floats(5, 6)),
    "lstm": Family("LSTM over time", zoo.UnrolledLSTM, floats(5, 6)),
    "automaton": Family(
        "cellular automaton, random updates", zoo.CellularAutomaton, floats(6, 5, 5), refused_by_onnx="rand_like"
    ),
    "automaton_sure": Family(
        "cellular automaton, random in training",
        lambda: zoo.CellularAutomaton(always_random=False),
        floats(6, 5, 5),
    ),
    "equilibrium": Family("equilibrium, unrolled solver", zoo.UnrolledEquilibrium, floats(8)),
    "descent": Family("gradient descent, one step size", zoo.UnrolledDescent, floats(6)),
    "descent_per_step": Family("gradient descent, step sizes", lambda: zoo.UnrolledDescent(per_step=True), floats(6)),
    "raft": Family("RAFT", zoo.RAFT, images),
    "repeated_module": Family("one module many times in a list", zoo.RepeatedModule, floats(LENGTH, 16)),
    "tied_parameters": Family("parameters tied across modules", zoo.TiedParameters, floats(LENGTH, 16)),
}


def _structured(title: str, forward: Callable[..., Any]) -> Family:
    arguments = forward.__code__.co_argcount - 1
    return Family(title, lambda: of_parts(forward), lambda batch: tuple(torch.randn(arguments, batch, WIDTH)))


FAMILIES |= {forward.__name__: _structured(title, forward) for title, forward in STRUCTURES.items()}
