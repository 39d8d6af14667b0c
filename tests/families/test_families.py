"""Every family is found to have its nest, and computes what eager computes: forward, gradients, and the file."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
import torch.utils._pytree as pytree

from laser_fx.errors import ExportError
from laser_fx.export import OnnxModel
from laser_fx.export.graphs import nodes
from tests.export.operators import unlisted
from tests.families.compiled import compiled, figures
from tests.families.expected import EXPECTED
from tests.families.registry import FAMILIES
from tests.small import backward, same

EXPORTED = [name for name, family in FAMILIES.items() if family.refused_by_onnx is None]
REFUSED = [name for name in FAMILIES if name not in EXPORTED]


def test_every_family_has_an_expectation() -> None:
    assert list(FAMILIES) == list(EXPECTED)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_nest_in_evaluation(name: str) -> None:
    assert figures(compiled(name, False).loops) == EXPECTED[name].evaluation


@pytest.mark.parametrize("name", FAMILIES)
def test_the_nest_in_training(name: str) -> None:
    assert figures(compiled(name, True).loops) == EXPECTED[name].training


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_forward_equals_eager_bitwise_at_any_batch_size(name: str) -> None:
    model = compiled(name, False)
    assert model.loops
    for rows in (3, 5):
        inputs = FAMILIES[name].inputs(rows)
        torch.manual_seed(1)  # for states and masks that are drawn
        expected = model._model(*inputs)
        torch.manual_seed(1)
        assert same(model(*inputs), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_equal_eager_bitwise(name: str) -> None:
    model = compiled(name, True)
    inputs = FAMILIES[name].inputs(4)
    output, gradients = backward(model, model, *inputs)
    assert model.loops
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert same((output, gradients), backward(model._model, model._model, *inputs))


@pytest.mark.parametrize("name", EXPORTED)
@torch.no_grad()
def test_the_rolled_file_answers_as_eager(name: str, tmp_path: Path) -> None:
    model = compiled(name, False)
    file = model.to_onnx(tmp_path / "m.onnx", verify=True)
    found = {(node.domain, node.op_type) for node in nodes(onnx.load(file.path))}
    assert unlisted(found) == set(), "add them to tests/export/operators.py, so that ONNX's node tests are run for them"
    inputs = FAMILIES[name].inputs(4)
    answers = OnnxModel(file.path)(*inputs)
    expected = pytree.tree_leaves(model._model(*inputs))
    for answer, value in zip(answers.values(), expected, strict=True):
        scale = float(value.abs().max())
        torch.testing.assert_close(answer, value, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_cannot_draw_random_numbers(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=FAMILIES[name].refused_by_onnx):
        compiled(name, False).to_onnx(tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
