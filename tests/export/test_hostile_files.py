"""Files that somebody changed: each is refused with a sentence, and nothing outside its folder is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from laser_fx.errors import OnnxFileError
from laser_fx.export import OnnxFile
from laser_fx.export.bounded_json import MAX_DEPTH, MAX_LENGTH, read_json
from laser_fx.export.checksum import KEY
from laser_fx.export.metadata import FORMAT_VERSION
from laser_fx.export.model_file import read_model_file

Exported = Callable[[str], tuple[Any, OnnxFile]]
Change = Callable[[onnx.ModelProto], Any]


@pytest.fixture
def changed(exported: Exported, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a good file with a change, without the checksum that would tell of it first."""

    def made(change: Change, name: str = "one_loop") -> Path:
        model = onnx.load(exported(name)[1].path)
        kept = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        change(model)
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return made


def told(model: onnx.ModelProto, field: str, change: Callable[[Any], Any]) -> None:
    (entry,) = (e for e in model.metadata_props if e.key == f"laser_fx.{field}")
    entry.value = json.dumps(change(json.loads(entry.value)))


def refused(path: Path, said: str) -> str:
    with pytest.raises(OnnxFileError, match=said) as caught:
        read_model_file(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("objective", ["accuracy", 1, True, ["output"], {}])
def test_an_objective_that_there_is_not_is_refused(changed: Callable[..., Path], objective: object) -> None:
    path = changed(lambda m: told(m, "sites", lambda s: [{**entry, "objective": objective} for entry in s]), "tracked")
    refused(path, "sites.objective is neither")


def test_a_site_without_an_objective_is_read_as_earlier_versions_wrote_it(changed: Callable[..., Path]) -> None:
    def without(sites: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in site.items() if key != "objective"} for site in sites]

    assert read_model_file(changed(lambda m: told(m, "sites", without), "tracked")).metadata.sites


@pytest.mark.parametrize("name", ["one_loop", "nested", "tracked", "two_loops"])
def test_an_unchanged_copy_is_read(changed: Callable[..., Path], name: str) -> None:
    assert not read_model_file(changed(lambda _: None, name)).checked


def test_a_file_as_written_has_its_checksum(exported: Exported) -> None:
    assert read_model_file(exported("one_loop")[1].path).checked


def test_one_bit_of_a_weight_is_seen(exported: Exported, tmp_path: Path) -> None:
    program, file = exported("one_loop")
    content = bytearray(file.path.read_bytes())
    place = content.index(program.weights["w"].numpy().tobytes())
    content[place + 100] ^= 1
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, "checksum")


def test_an_edit_by_another_tool_is_seen(exported: Exported, tmp_path: Path) -> None:
    model = onnx.load(exported("tracked")[1].path)
    model.graph.initializer[0].name += ""
    model.doc_string = "edited"
    onnx.save(model, tmp_path / "m.onnx")
    refused(tmp_path / "m.onnx", "checksum")


@pytest.mark.parametrize("size", [0, 1, 700])
def test_a_file_that_is_cut_off(exported: Exported, tmp_path: Path, size: int) -> None:
    content = exported("one_loop")[1].path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) - size] if size else b"")
    refused(tmp_path / "m.onnx", "damaged|bytes|not written|lacks|checksum")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with path.open("wb") as sparse:
        sparse.truncate(2**31)
    refused(path, "2,147,483,648 bytes")


TAMPERED = {
    "an input that is not there": ("inputs", lambda v: [*v, "extra"], "inputs are"),
    "inputs in another order": ("inputs", lambda v: v[::-1], "inputs are"),
    "an output that is not there": ("outputs", lambda v: [*v, ["a", "b"]], "outputs are"),
    "another name for an output": ("outputs", lambda v: [["y", "first"], *v[1:]], "twice"),
    "a fidelity that is none": ("fidelity", lambda _: "batch.inputs", "optional inputs are"),
    "a depth that is none": ("depths", lambda v: [{**v[0], "input": "carry.z"}], "optional inputs are"),
    "another default depth": ("depths", lambda v: [{**v[0], "default": 6}], "default of 'depth' is not 6"),
    "a depth below its least": ("depths", lambda v: [{**v[0], "least": 99}], "at least 99"),
    "a loop that is none": ("loops", lambda v: [{**v[0], "name": "loop_7"}], "loops are"),
    "no loops": ("loops", lambda _: [], "loops are"),
    "a form that is none": ("form", lambda _: "executable", "form is"),
    "a form that is no text": ("form", lambda _: ["rolled"], "form is"),
    "a name twice": ("inputs", lambda v: [v[0], v[0]], "twice"),
    "a name that is no text": ("inputs", lambda _: [1, 2], "no name"),
    "a name with control characters": ("inputs", lambda v: ["\x1b[2J", v[1]], "no name"),
    "a name without end": ("inputs", lambda v: ["x" * 5000, v[1]], "no name"),
    "an object for a list": ("records", lambda _: {"a": 1}, "no list"),
    "trips that are no number": ("loops", lambda v: [{**v[0], "trips": "5"}], "no count"),
    "trips below one": ("loops", lambda v: [{**v[0], "trips": 0}], "0 times"),
    "trips that are true": ("loops", lambda v: [{**v[0], "trips": True}], "no count"),
    "a number beyond all bounds": ("depths", lambda v: [{**v[0], "default": 10**30}], "no count"),
    "a field too many": ("depths", lambda v: [{**v[0], "__class__": "os.system"}], "has not the fields"),
    "a field too few": ("loops", lambda _: [{"name": "loop_0"}], "has not the fields"),
    "a signature that is none": ("signature", lambda _: "", "no name"),
    "a tree of a tensor that is not there": ("input_tree", lambda _: [{"$tensor": "w"}], "a place for 'w'"),
    "a tree of more than a tensor": ("output_tree", lambda v: {**v[0], "$class": "A"}, "a place for"),
    "a tree that is none": ("input_tree", lambda _: "inputs", "no structure"),
    "a tree of a class that is no text": ("output_tree", lambda v: {"$class": v}, "no name"),
    "a constant that is none": ("input_tree", lambda _: {"$constant": []}, "a constant"),
    "options that are none": ("options", lambda _: [1], "options is no object"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_tampered_metadata(changed: Callable[..., Path], case: str) -> None:
    field, change, said = TAMPERED[case]
    refused(changed(lambda model: told(model, field, change)), said)


def test_trips_that_the_graph_does_not_run(changed: Callable[..., Path]) -> None:
    path = changed(lambda m: told(m, "loops", lambda v: [v[0], {**v[1], "trips": 4}]), "nested")
    refused(path, "loop_0_0 does not run 4 times")


def test_a_fidelity_out_of_range(changed: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        (stored,) = (t for t in model.graph.initializer if t.name == "fidelity")
        stored.CopyFrom(numpy_helper.from_array(np.array(np.nan, np.float32), "fidelity"))

    refused(changed(change, "tracked"), r"not in \(0, 1\]")


def test_a_depth_that_drives_another_loop(changed: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        first, second = (node for node in model.graph.node if node.op_type == "Loop")
        first.input[0], second.input[0] = second.input[0], first.input[0]

    refused(changed(change, "two_loops"), "loop_0 does not run 2 times")


def test_metadata_that_is_missing_or_stands_twice(changed: Callable[..., Path]) -> None:
    def without(model: onnx.ModelProto) -> None:
        kept = [e for e in model.metadata_props if e.key != "laser_fx.loops"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    refused(changed(without), "lacks 'laser_fx.loops'")
    refused(changed(lambda m: m.metadata_props.append(m.metadata_props[0])), "key twice")


def test_a_file_of_a_newer_version(changed: Callable[..., Path]) -> None:
    newer = FORMAT_VERSION + 1
    assert "--upgrade" in refused(changed(lambda m: told(m, "format", lambda _: newer)), f"format {newer}")
    assert "--upgrade" not in refused(changed(lambda m: told(m, "format", lambda _: -1)), "format -1")


@pytest.mark.parametrize("said", ["batch", "batch > x", "open('x') > 1", "batch ** 9 > 1", "batch > 1 and 1", "(" * 99])
def test_conditions_on_sizes_are_arithmetic_of_the_file_s_own_sizes(changed: Callable[..., Path], said: str) -> None:
    def with_condition(model: onnx.ModelProto) -> None:
        told(model, "conditions", lambda _: [said])

    refused(changed(with_condition), "is no condition on its sizes")


def test_options_for_onnx_runtime_are_refused(changed: Callable[..., Path]) -> None:
    config = {"session_options": {"optimized_model_filepath": "/tmp/owned"}}
    path = changed(lambda m: helper.set_model_props(m, {**_props(m), "ort_config": json.dumps(config)}))
    refused(path, "ort_config")


def _props(model: onnx.ModelProto) -> dict[str, str]:
    props = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    return props


@pytest.mark.parametrize("domain", ["com.microsoft", "evil.custom"])
def test_operators_of_other_domains_are_refused(changed: Callable[..., Path], domain: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("EPContext", [], ["out"], name="ctx", domain=domain))

    assert "node 'ctx'" in refused(changed(change), f"{domain}::EPContext")


def test_an_operator_inside_a_loop_or_a_function_is_refused_too(changed: Callable[..., Path]) -> None:
    def in_function(model: onnx.ModelProto) -> None:
        model.functions[0].node.append(helper.make_node("Run", [], ["out"], domain="evil"))

    refused(changed(in_function, "tracked"), "evil::Run")

    def in_body(model: onnx.ModelProto) -> None:
        (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
        loop.attribute[0].g.node.append(helper.make_node("Run", [], ["out"], domain="evil"))

    refused(changed(in_body), "evil::Run")


def externalised(location: str, **entries: object) -> Change:
    """Move the weight ``w`` out of the file."""

    def change(model: onnx.ModelProto) -> None:
        (stored,) = (t for t in model.graph.initializer if t.name == "w")
        stored.ClearField("raw_data")
        stored.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            stored.external_data.add(key=key, value=str(value))

    return change


W_BYTES = 16 * 16 * 4


def test_external_data_in_the_folder_is_read(exported: Exported, changed: Callable[..., Path], tmp_path: Path) -> None:
    from laser_fx.export import OnnxModel

    program, file = exported("one_loop")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(b"\0" * 8 + program.weights["w"].numpy().tobytes())
    path = changed(externalised("data/w.bin", offset=8, length=W_BYTES))
    expected = OnnxModel(file.path)(*program.example_inputs)["y"]
    np.testing.assert_array_equal(OnnxModel(path)(*program.example_inputs)["y"], expected)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("../secret.bin", "leaves the model's folder"),
        ("sub/../../secret.bin", "leaves the model's folder"),
        ("/etc/passwd", "not relative"),
        ("C:\\secret.bin", "not relative"),
        ("C:secret.bin", "not relative"),
        ("\\\\host\\share", "not relative"),
        ("..\\secret.bin", "not relative"),
        ("", "names no file"),
        ("a\0b", "names no file"),
        ("x" * 2000, "names no file"),
        ("nowhere.bin", "there is no file"),
        (".", "no plain file|leaves|is no"),
    ],
)
def test_external_data_stays_in_the_folder(
    changed: Callable[..., Path], tmp_path: Path, location: str, said: str
) -> None:
    (tmp_path.parent / "secret.bin").write_bytes(b"\0" * W_BYTES)
    assert "'w'" in refused(changed(externalised(location)), said)


def test_a_name_that_no_disk_takes_is_refused(changed: Callable[..., Path]) -> None:
    refused(changed(externalised("x" * 900)), "File name too long")


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_external_data_through_a_symbolic_link_is_refused(
    changed: Callable[..., Path], tmp_path: Path, linked: str
) -> None:
    outside = tmp_path.parent / f"outside_{linked}"
    outside.mkdir()
    (outside / "w.bin").write_bytes(b"\0" * W_BYTES)
    if linked == "file":
        (tmp_path / "w.bin").symlink_to(outside / "w.bin")
        refused(changed(externalised("w.bin")), "symbolic link")
    else:
        (tmp_path / "sub").symlink_to(outside)
        refused(changed(externalised("sub/w.bin")), "symbolic link")


def test_a_pipe_is_not_waited_for(changed: Callable[..., Path], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    refused(changed(externalised("w.bin")), "no plain file")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"length": W_BYTES * 2}, "shape and dtype 1,024"),
        ({"offset": 1}, "would end at 1,025"),
        ({"offset": 10**17}, "would end at"),
        ({"offset": "-8"}, "no number"),
        ({"length": "9" * 40}, "no number"),
    ],
)
def test_external_data_is_bounded(
    changed: Callable[..., Path], tmp_path: Path, entries: dict[str, Any], said: str
) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * W_BYTES)
    refused(changed(externalised("w.bin", **entries)), said)


def test_external_data_of_a_tensor_inside_a_loop_is_seen(changed: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
        hidden = TensorProto(name="hidden", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        hidden.external_data.add(key="location", value="/etc/passwd")
        loop.attribute[0].g.node.append(helper.make_node("Constant", [], ["out"], value=hidden))

    refused(changed(change), "'hidden' is refused")


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 100_000,
        '"' + "x" * MAX_LENGTH + '"',
        "NaN",
        "[Infinity]",
        '{"a": 1, "a": 2}',
        "1" * 5000,
        "{",
        "",
    ],
)
def test_json_is_bounded(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own errors among them
        read_json(text)


def test_brackets_in_strings_are_no_depth() -> None:
    assert read_json('["[[[[[[[[[[[[[[[[[[[[\\"[[[[", {"a\\\\": 1}]') == ['[[[[[[[[[[[[[[[[[[[["[[[[', {"a\\": 1}]


def test_deep_metadata_is_refused_before_it_is_parsed(changed: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = (e for e in model.metadata_props if e.key == "laser_fx.options")
        entry.value = "[" * 50_000 + "]" * 50_000

    refused(changed(change), "nested 50000 deep")
