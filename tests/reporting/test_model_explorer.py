"""Files for Model Explorer: the format of its own classes, and values at the nodes of sites."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest
import torch

import laser_fx
from laser_fx import Options
from laser_fx.errors import OutputPathError
from laser_fx.loops import Loop, LoopNest, Site, Step
from laser_fx.reporting import Report, SiteReport
from laser_fx.reporting.model_explorer import collection, overlays
from tests.small import Contractive

# Fields of the classes of ai-edge-model-explorer 0.1.34, graph_builder.py and node_data_builder.py, that are written.
EDGE = {"sourceNodeId": str, "sourceNodeOutputId": str, "targetNodeInputId": str}
PAIR = {"key": str, "value": str}
NODE = {
    "id": str,
    "label": str,
    "namespace": str,
    "attrs": [PAIR],
    "incomingEdges": [EDGE],
    "outputsMetadata": [{"id": str, "attrs": [PAIR]}],
}
OVERLAY = {"name": str, "edgeColor": str, "edges": [{"sourceNodeId": str, "targetNodeId": str}]}
GRAPH = {
    "id": str,
    "nodes": [NODE],
    "groupNodeAttributes": dict,
    "tasksData": {"edgeOverlaysDataListLeftPane": [{"name": str, "type": str, "overlays": [OVERLAY]}]},
}
NODE_DATA = {
    "name": str,
    "results": dict,
    "gradient": [{"stop": int, "bgColor": str}],
    "hideAggregatedStats": [str],
    "hideInChildrenStatsTable": bool,
}


def misfits(value: Any, kind: Any, where: str = "") -> list[str]:
    """Where a value has another form, or a field that the classes do not know."""
    if isinstance(kind, type):
        return [] if isinstance(value, kind) else [f"{where}: {value!r}"]
    if isinstance(kind, list):
        return [miss for i, entry in enumerate(value) for miss in misfits(entry, kind[0], f"{where}[{i}]")]
    strange = [f"{where}.{key}" for key in value.keys() - kind.keys()]
    return strange + [
        miss for key in value.keys() & kind.keys() for miss in misfits(value[key], kind[key], f"{where}.{key}")
    ]


@pytest.fixture(scope="module")
def measured() -> Report:
    torch.manual_seed(0)
    x = torch.randn(8, 32)
    compiled = laser_fx.compile(Contractive().eval(), (x,), options=Options.exact())
    with torch.no_grad():
        tracked = compiled.with_options(Options(sites="all", fidelity=0.99))
        tracked(x)
    return tracked.report(training=False, measure="picture")


def test_the_files_have_the_form_of_its_classes(measured: Report, tmp_path: Path) -> None:
    paths = measured.to_model_explorer(tmp_path / "net.json")
    assert [path.name for path in paths] == ["net.json", "net.rank.json", "net.fidelity.json"]
    graphs, *data = (json.loads(path.read_text("utf-8")) for path in paths)
    assert misfits(graphs, {"label": str, "graphs": [GRAPH]}) == []
    for overlay in data:
        assert misfits(overlay, {"Contractive": NODE_DATA}) == []
        assert all(set(result) == {"value"} for result in overlay["Contractive"]["results"].values())


def test_edges_and_values_are_of_nodes_that_there_are(measured: Report) -> None:
    (graph,) = collection(measured)["graphs"]
    known = [node["id"] for node in graph["nodes"]]
    assert len(set(known)) == len(known)
    assert {edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]} <= set(known)
    (carried,) = graph["tasksData"]["edgeOverlaysDataListLeftPane"][0]["overlays"]
    assert [(e["sourceNodeId"], e["targetNodeId"]) for e in carried["edges"]] == [
        ("loop_0/add_1", "loop_0/carry_zeros_like")
    ]
    assert all(overlay["Contractive"]["results"].keys() <= set(known) for overlay in overlays(measured).values())


def test_loops_and_modules_are_namespaces(measured: Report) -> None:
    (graph,) = collection(measured)["graphs"]
    places = {node["namespace"] for node in graph["nodes"] if node["label"] == "linear"}
    assert places == {"loop_0/up", "loop_0/down"}
    assert graph["groupNodeAttributes"]["loop_0"]["trips"] == "6"


def test_values_are_those_of_the_report(measured: Report) -> None:
    found = {name: data["Contractive"]["results"] for name, data in overlays(measured).items()}
    nodes = {node.name: node.site for node in measured.picture.nodes if node.site}  # type: ignore[union-attr]
    sites = {site.site.key: site for site in measured.sites}
    assert {name: value["value"] for name, value in found["rank"].items()} == {
        name: sites[key].site.rank for name, key in nodes.items()
    }
    assert {name: value["value"] for name, value in found["fidelity"].items()} == {
        name: sites[key].lowest_fidelity for name, key in nodes.items()
    }


def test_nested_loops_are_nested_namespaces_and_a_slash_is_none(report: Report) -> None:
    odd = replace(report.sites[0], site=replace(report.sites[0].site, name="a/b.<script>"))
    (graph,) = collection(replace(report, sites=(odd,)))["graphs"]
    (node,) = graph["nodes"]
    assert node["namespace"] == "loop_0/loop_0_0/loop_0_0_0/a_b/<script>"
    assert set(graph["groupNodeAttributes"]) == {"", "loop_0", "loop_0/loop_0_0", "loop_0/loop_0_0/loop_0_0_0"}


def test_what_was_not_measured_has_no_value(tmp_path: Path) -> None:
    steps = (Step(nan, 0, True, True, False),)
    site = SiteReport(Site("up", "loop_0", "up.weight", 8, 32, 16, 1), steps)
    made = Report("Net", LoopNest((Loop("loop_0", 1),)), (site,))
    assert overlays(made) == {}
    assert made.to_model_explorer(tmp_path / "net.json") == (tmp_path / "net.json",)


def test_all_files_are_written_or_none(measured: Report, tmp_path: Path) -> None:
    (tmp_path / "net.fidelity.json").write_text("kept")
    with pytest.raises(OutputPathError, match="exists already"):
        measured.to_model_explorer(tmp_path / "net.json")
    assert [path.name for path in tmp_path.iterdir()] == ["net.fidelity.json"]
    assert (tmp_path / "net.fidelity.json").read_text() == "kept"
    assert len(measured.to_model_explorer(tmp_path / "net.json", overwrite=True)) == 3
