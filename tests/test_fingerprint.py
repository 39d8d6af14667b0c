from __future__ import annotations

import copy
import dataclasses
import gc
import sys
import types
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from laser_fx.fingerprint import fingerprint

WIDTH = 4
FACTOR = 2.0


def scaled(x: Tensor) -> Tensor:
    return x * FACTOR


@dataclasses.dataclass
class Config:
    trips: int = 3
    inner: dict[str, Any] = dataclasses.field(default_factory=lambda: {"gain": [1.0, 2.0]})


class Model(nn.Module):
    bias = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.1)
        self.register_buffer("shift", torch.ones(WIDTH))
        self.trips, self.config, self.mask = 3, Config(), torch.ones(WIDTH)
        self.unread = 0

    def step(self, x: Tensor) -> Tensor:
        return scaled(torch.tanh(self.a(x))) * self.mask + self.bias

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.trips + self.config.trips):
            x = self.step(x)
        return self.drop(self.b(x)) + self.shift


def replace_child(model: Model) -> None:
    model.b = nn.Sequential(nn.Linear(WIDTH, WIDTH))  # type: ignore[assignment]


def tie(model: Model) -> None:
    model.b.weight = model.a.weight


def share_storage(model: Model) -> None:
    model.b.weight.data = model.a.weight.data


def patch_forward(model: Model) -> None:
    model.forward = types.MethodType(lambda self, x: self.a(x), model)  # type: ignore[method-assign]


def write_mask(model: Model) -> None:
    model.mask[0] = 0.0


CHANGES: dict[str, tuple[Callable[[Model], Any], str]] = {
    "an attribute": (lambda m: setattr(m, "trips", 5), "Model.trips was 3, is 5"),
    "its type": (lambda m: setattr(m, "trips", 3.0), "Model.trips was 3, is 3.0"),
    "a new attribute": (lambda m: setattr(m, "shift_by", 1), "the code names it not"),
    "a field of the configuration": (lambda m: setattr(m.config, "trips", 4), "Model.config changed"),
    "an entry deep in it": (lambda m: m.config.inner["gain"].append(3.0), "Model.config changed"),
    "the training flag": (lambda m: m.train(), "Model.training was False, is True"),
    "a child's training flag": (lambda m: m.drop.train(), "drop.training was False, is True"),
    "a child's attribute": (lambda m: setattr(m.drop, "p", 0.2), "drop.p was 0.1, is 0.2"),
    "a child": (replace_child, "b was Linear, is Sequential"),
    "tied weights": (tie, "b.weight is tied to other tensors than before"),
    "shared storage": (share_storage, "b.weight is tied to other tensors than before"),
    "the dtype": (lambda m: m.a.half(), "a.weight dtype was float32, is float16"),
    "the device": (lambda m: m.a.to("meta"), "a.weight device was cpu, is meta"),
    "a shape": (lambda m: setattr(m.a, "bias", nn.Parameter(torch.ones(1))), "a.bias shape was (4,), is (1,)"),
    "a missing bias": (lambda m: setattr(m.a, "bias", None), "a.bias was a tensor, is None"),
    "requires_grad": (lambda m: m.a.weight.requires_grad_(False), "a.weight requires_grad was True, is False"),
    "a patched forward": (patch_forward, "Model.forward was added"),
    "a hook": (lambda m: m.a.register_forward_hook(lambda *_: None), "the hooks of a changed"),
    "a plain tensor": (lambda m: setattr(m, "mask", torch.ones(WIDTH)), "Model.mask changed"),
    "what a plain tensor holds": (write_mask, "Model.mask changed"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_a_graph_can_tell_is_seen_and_named(change: str) -> None:
    model = Model().eval()
    before = fingerprint(model)
    act, words = CHANGES[change]
    act(model)
    after = fingerprint(model)
    if change == "a new attribute":
        assert before == after
    else:
        assert before != after
        assert before.difference(after) == words


def helper_of(name: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], name, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda patch: helper_of("FACTOR", 3.0, patch), "Model.step changed"),
        (lambda patch: helper_of("scaled", lambda x: x + 1, patch), "Model.step changed"),
        (lambda patch: patch.setattr(Model, "step", lambda self, x: self.a(x)), "Model.step changed"),
        (lambda patch: patch.setattr(Model, "bias", 1.0), "Model.bias changed"),
        (lambda patch: patch.setattr(nn.Linear, "forward", lambda self, x: x), "Linear.forward changed"),
        (lambda patch: patch.setattr(torch, "get_default_dtype", lambda: torch.float64), "the default dtype was"),
    ],
    ids=["a global", "a helper", "a method", "a class attribute", "a library's method", "the default dtype"],
)
def test_code_and_what_it_reads_are_seen(
    change: Callable[[Any], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model().eval()
    before = fingerprint(model)
    change(monkeypatch)
    difference = before.difference(fingerprint(model))
    assert difference is not None
    assert difference.startswith(words)


def test_closures_and_defaults_are_seen() -> None:
    def model(trips: int) -> nn.Module:
        def forward(self: Any, x: Tensor, gain: float = trips / 2) -> Tensor:
            for _ in range(trips):
                x = self.a(x) * gain
            return x

        made = Model().eval()
        made.forward = types.MethodType(forward, made)  # type: ignore[method-assign]
        return made

    first = model(3)
    before = fingerprint(first)
    first.forward = types.MethodType(model(3).forward.__func__, first)  # type: ignore[attr-defined, method-assign]
    assert fingerprint(first) == before
    first.forward = types.MethodType(model(4).forward.__func__, first)  # type: ignore[attr-defined, method-assign]
    assert fingerprint(first) != before


def test_what_no_graph_can_tell_is_no_difference() -> None:
    model = Model().eval()
    before = fingerprint(model)
    with torch.no_grad():
        model.a.weight.mul_(2)
        model.shift.zero_()
    model.a.weight.grad = torch.ones(WIDTH, WIDTH)
    model.a.load_state_dict(nn.Linear(WIDTH, WIDTH).state_dict(), assign=True)
    model.unread = 7
    model.mask = model.mask
    assert before == fingerprint(model)


def test_a_name_that_is_computed_makes_every_attribute_count() -> None:
    class Computed(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) * getattr(self, "un" + "read")

    model = Computed().eval()
    before = fingerprint(model)
    model.unread = 7
    assert before.difference(fingerprint(model)) == "Computed.unread was 0, is 7"


def test_parameters_in_plain_lists_are_still_the_model_s_own() -> None:
    lstm = nn.LSTM(WIDTH, WIDTH)
    before = fingerprint(lstm)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.add_(1.0)
    assert before == fingerprint(lstm)


def test_cycles_and_awkward_values_end() -> None:
    model = Model().eval()
    loop: list[Any] = [float("nan"), -0.0, b"x", {1, 2}, object(), model, lambda: model]
    loop.append(loop)
    model.config = loop  # type: ignore[assignment]
    before = fingerprint(model)
    assert before == fingerprint(model)
    loop[1] = 0.0
    assert before != fingerprint(model)


def test_it_keeps_no_model_alive() -> None:
    model = Model().eval()
    model.own = [model, partial(Model.step, model), types.MethodType(Model.step, model)]
    kept, gone = fingerprint(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert kept.modules


@dataclasses.dataclass(frozen=True)
class FrozenConfig:
    trips: int = 3
    gains: tuple[float, ...] = (1.0, 2.0)


def test_a_copy_with_a_frozen_configuration_is_the_same_model() -> None:
    model = nn.Linear(WIDTH, WIDTH)
    model.config = FrozenConfig()  # type: ignore[assignment]
    before = fingerprint(model)
    assert before == fingerprint(copy.deepcopy(model))
    model.config = FrozenConfig(gains=(1.0, 3.0))  # type: ignore[assignment]
    assert not before.identical(fingerprint(model))
