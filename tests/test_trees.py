"""Structures as JSON, from real programs and back."""

from __future__ import annotations

import json
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree

import laser_fx
from laser_fx.export import OnnxModel
from laser_fx.trees import constant, plain_tree, signature_of, tensor, tensor_names
from laser_fx.zoo.trm import TRM, TRMConfig

Pair = namedtuple("Pair", "left right")


def test_every_kind_of_structure_has_its_names() -> None:
    value = (Pair(0, [0]), OrderedDict(b=0, a=0), None, torch.Size([0]))
    leaves, spec = pytree.tree_flatten(value)
    tree = plain_tree(spec, [tensor(str(position)) for position in range(len(leaves))])
    assert tree[0] == {"$class": "Pair", "left": tensor("0"), "right": [tensor("1")]}
    assert tree[1] == {"b": tensor("2"), "a": tensor("3")}
    assert list(tensor_names(tree)) == [str(position) for position in range(len(leaves))]


def test_what_json_does_not_have_is_told_by_its_class() -> None:
    assert constant(float("nan")) == {"$constant": "<float>"}
    assert constant(object()) == {"$constant": "<object>"}
    assert constant(True) == {"$constant": True}


def test_a_signature_holds_no_address() -> None:
    def forward(x: int, key: Any = object()) -> None: ...  # noqa: B008

    assert signature_of(forward, "Model") == "Model.forward(x: int, key: Any = <object object>) -> None"


def test_a_file_knows_the_structures_of_its_model(tmp_path: Path) -> None:
    model = TRM(TRMConfig(seq_len=4, vocab_size=5, H_cycles=1, L_cycles=2, hidden_size=16, num_heads=2)).eval()
    batch = {"inputs": torch.ones(3, 4, dtype=torch.int64), "puzzle_identifiers": torch.zeros(3, dtype=torch.int64)}
    carry = model.initial_carry(batch)
    compiled = laser_fx.compile(model, (carry, batch), options=laser_fx.Options.exact())
    onnx_model = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", verify=False).path)
    metadata = onnx_model.metadata
    assert metadata.signature == "TRM.forward(carry: Carry, batch: Batch) -> tuple[Carry, dict[str, Tensor]]"
    assert tuple(tensor_names(metadata.input_tree)) == metadata.inputs
    assert metadata.input_tree[0][0]["inner_carry"]["z_H"] == tensor("carry.inner_carry.z_H")
    json.dumps(metadata.output_tree)
    following, outputs = onnx_model.nested(onnx_model(carry, batch))
    expected, answers = model(carry, batch)
    torch.testing.assert_close(outputs["logits"], answers["logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(following["inner_carry"]["z_L"], expected.inner_carry.z_L, rtol=1e-4, atol=1e-5)
    assert torch.equal(following["steps"], expected.steps)
