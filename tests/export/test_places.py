"""Tensors of a call go where the model would take them: by keys and parameters, whatever their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import laser_fx
from laser_fx.errors import InputError
from laser_fx.export import OnnxModel
from laser_fx.export.call_inputs import matched
from laser_fx.export.metadata import FileMetadata
from laser_fx.trees import constant, tensor

WIDTH = 8
X, Z = torch.full((2,), 1.0), torch.full((2,), 2.0)
MASKED = "Net.forward(ids, mask=None, labels=None, scale=1.0)"


class Masked(nn.Module):
    """Both of its inputs have one dtype and one shape, as those of a tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(5, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        hidden = self.table(ids)
        for _ in range(3):
            hidden = torch.tanh(self.linear(hidden)) * mask.unsqueeze(-1) * scale
        return {"hidden": hidden}


def told(places: list[Any], by_name: dict[str, Any], signature: str, *inputs: str) -> FileMetadata:
    return FileMetadata("rolled", inputs, (), input_tree=[places, by_name], signature=signature)


def match(metadata: FileMetadata, *inputs: Any, **named: Any) -> dict[str, Any]:
    return matched(metadata, metadata.inputs, inputs, named, "a file")


def test_arguments_of_an_export_by_keyword_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    model, ids, mask = Masked().eval(), torch.randint(0, 5, (3, 4)), torch.randint(0, 2, (3, 4))
    options = laser_fx.Options.exact()
    compiled = laser_fx.compile(model, example_kwargs={"mask": mask, "ids": ids, "scale": 2.0}, options=options)
    file = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", verify=False).path)
    with torch.no_grad():
        expected = model(ids, mask, 2.0)["hidden"]
    for answers in (file(ids, mask), file(ids, mask, 2.0), file(ids, mask=mask), file(mask=mask, ids=ids)):
        torch.testing.assert_close(answers["hidden"], expected)
    file.warm_up(sizes=2)


def test_a_batch_that_the_code_needs_as_it_is_is_a_number_in_the_file(tmp_path: Path) -> None:
    class Fixed(Masked):
        def forward(self, ids: Tensor, mask: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return super().forward(ids.view(3, 4), mask, scale)

    example = (torch.randint(0, 5, (3, 4)), torch.randint(0, 2, (3, 4)))
    compiled = laser_fx.compile(Fixed().eval(), example, options=laser_fx.Options.exact())
    file = OnnxModel(compiled.to_onnx(tmp_path / "m.onnx", verify=False).path)
    assert file(*example)["hidden"].shape == (3, 4, WIDTH)
    with pytest.raises(InputError, match=r"has shape \(2, 4\)"):
        file(*(value[:2] for value in example))


def test_a_dict_is_read_by_its_keys_whatever_their_order() -> None:
    batch = {"x": tensor("batch.x"), "inner": [{"z": tensor("batch.inner.0.z")}], "steps": constant(3)}
    known = told([batch], {}, "Net.forward(batch)", "batch.x", "batch.inner.0.z")
    expected = {"batch.x": X, "batch.inner.0.z": Z}
    assert match(known, {"steps": 3, "inner": [{"z": Z}], "x": X}) == expected
    assert match(known, batch={"inner": ({"z": Z},), "x": X}) == expected
    assert match(known, X, Z) == expected


def test_a_constant_inside_of_a_structure_is_that_of_the_export() -> None:
    batch = {"x": tensor("batch.x"), "steps": constant(3), "shape": [constant(2), constant(2)]}
    known = told([batch], {}, "Net.forward(batch)", "batch.x")
    assert match(known, {"x": X, "shape": (2, 2), "mask": None}) == {"batch.x": X}
    for other in ({"steps": 4}, {"steps": None}, {"shape": (2, 1)}, {"flag": True}):
        with pytest.raises(InputError, match="was not exported with"):
            match(known, {"x": X, **other})
        with pytest.raises(InputError, match="was not exported with"):
            match(known, batch={"x": X, **other})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda known: match(known, {"a": X, "b": Z}), "keys 'a', 'b' are not those"),
        (lambda known: match(known, ids=X), "no value for 'labels'"),
        (lambda known: match(known, X, Z), "2 tensors came in order, 1 inputs are left"),
        (lambda known: match(known, X, None, Z, None), "argument 3 = None"),
    ],
)
def test_what_would_go_to_another_argument_is_refused(call: Callable[[FileMetadata], Any], said: str) -> None:
    by_name = {"ids": tensor("ids"), "labels": tensor("labels"), "scale": constant(2.0)}
    known = told([], by_name, MASKED, "ids", "labels")
    with pytest.raises(InputError, match=said):
        call(known)
    assert match(known, X, labels=Z) == match(known, X, None, Z, 2.0) == {"ids": X, "labels": Z}
