"""What a file's nodes tell a viewer of loops and sites, and that nothing else passes for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch

import laser_fx
from laser_fx import CompiledModel, Options
from laser_fx.errors import OnnxFileError
from laser_fx.export.checksum import KEY
from laser_fx.export.graphs import nodes
from laser_fx.export.model_file import read_model_file
from laser_fx.export.told import LOOP, SITE
from tests.small import Contractive


@pytest.fixture(scope="module")
def tracked() -> CompiledModel:
    torch.manual_seed(0)
    with torch.no_grad():
        return laser_fx.compile(Contractive().eval(), (torch.randn(8, 32),), options=Options(sites="all"))


@pytest.fixture(scope="module")
def rolled(tracked: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tracked.to_onnx(tmp_path_factory.mktemp("told") / "tracked.onnx", verify=False).path


def told(model: onnx.ModelProto) -> Iterator[tuple[str, dict[str, str]]]:
    """What each node tells that tells anything: operator and properties."""
    for node in nodes(model):
        if properties := {entry.key: entry.value for entry in node.metadata_props}:
            yield node.op_type, properties


def test_a_loop_tells_its_name_depth_carry_and_line(tracked: CompiledModel, rolled: Path) -> None:
    model = onnx.load(rolled)
    (loop,) = tracked.loops.loops
    (properties,) = (properties for operator, properties in told(model) if operator == "Loop")
    assert properties == {
        LOOP: "loop_0",
        "laser_fx.trips": "input depth",
        "laser_fx.carry": "carry_zeros_like",
        "laser_fx.source": loop.source,
    }
    (node,) = (node for node in model.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in node.attribute if attribute.name == "body")
    assert body.doc_string == f"one step of loop_0, {loop.source}"


def test_the_nodes_of_a_site_bear_its_name_and_the_first_all_else(tracked: CompiledModel, rolled: Path) -> None:
    found = [entry for entry in told(onnx.load(rolled)) if entry[0] != "Loop"]
    for site in tracked.sites:
        operators = [operator for operator, properties in found if properties[SITE] == site.key]
        assert operators == ["track", "reset", "fold", "folded_linear"]
        (first,) = (p for operator, p in found if operator == "track" and p[SITE] == site.key)
        assert (first["laser_fx.rank"], first["laser_fx.objective"]) == (str(site.rank), "activation")
        assert first["laser_fx.source"].startswith("tests/small.py:")
    assert sum(len(properties) for _, properties in found) == 2 * (4 + 3)


def test_an_exact_linear_and_a_function_tell_too(tracked: CompiledModel, tmp_path: Path) -> None:
    exact = tracked.with_options(Options.exact())
    file = exact.to_onnx(tmp_path / "exact.onnx", form="functions", verify=False)
    model = onnx.load(file.path)
    (body,) = (function for function in model.functions if function.domain == "laser_fx.body")
    assert body.doc_string == f"one step of loop_0, {exact.loops.loops[0].source}"
    assert [(operator, p[SITE]) for operator, p in told(model)] == [("Gemm", "loop_0:up"), ("Gemm", "loop_0:down")]


def test_the_text_is_a_small_part_of_a_file(rolled: Path) -> None:
    model = onnx.load(rolled)
    with_text = model.ByteSize()
    for node in nodes(model):
        node.ClearField("metadata_props")
    assert with_text - model.ByteSize() < 1200  # two sites of four nodes, and one loop


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (SITE, "loop_0:other", "which the metadata does not know"),
        (LOOP, "loop_9", "which the metadata does not know"),
        ("laser_fx.rank", "9\n9", "has 'laser_fx.rank'"),
        ("laser_fx.source", "x" * 5000, "has 'laser_fx.source'"),
        ("laser_fx.script", "1", "has 'laser_fx.script'"),
    ],
)
def test_what_laser_fx_did_not_write_is_refused(key: str, value: str, said: str, rolled: Path, tmp_path: Path) -> None:
    model = onnx.load(rolled)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.graph.node[0].metadata_props.add(key=key, value=value)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(OnnxFileError, match="a node does not tell what laser-fx wrote") as caught:
        read_model_file(path)
    assert said in str(caught.value)


def test_a_note_of_another_tool_is_left_alone(rolled: Path, tmp_path: Path) -> None:
    model = onnx.load(rolled)
    kept = [entry for entry in model.metadata_props if entry.key != KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.graph.node[0].metadata_props.add(key="quantizer.note", value="a\nb")
    (tmp_path / "noted.onnx").write_bytes(model.SerializeToString())
    assert read_model_file(tmp_path / "noted.onnx").metadata.sites
