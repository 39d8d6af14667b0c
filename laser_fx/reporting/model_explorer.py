"""The rolled graph in the format of Model Explorer, and ranks and fidelities as its custom node data.

Formats as of ai-edge-model-explorer 0.1.34: a graph collection (``graph_builder``) and model node data
(``node_data_builder``). Loops and modules are namespaces; what is carried is an edge overlay, since it goes to the next
step and not down the graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laser_fx.files import check_target, replacing
from laser_fx.loops import Loop, LoopNest
from laser_fx.reporting import format as fmt
from laser_fx.reporting.measured import PictureNode
from laser_fx.reporting.parts import SiteReport

if TYPE_CHECKING:
    from laser_fx.reporting.report import Report

__all__ = ["collection", "overlays", "write"]

_CARRY_COLOUR = "#e66101"
_LEAST, _MOST = "#f7fbff", "#4292c6"  # black text is legible on both

Plain = dict[str, Any]

_SHOWN: Plain = {
    "gradient": [{"stop": 0, "bgColor": _LEAST}, {"stop": 1, "bgColor": _MOST}],
    "hideAggregatedStats": ["sum"],  # nobody adds up ranks
    "hideInChildrenStatsTable": True,
}


def write(report: Report, path: Path, overwrite: bool) -> tuple[Path, ...]:
    """Writes graph and overlays, all of them or none.

    Raises:
        OutputPathError: a file exists, or cannot be written there.
    """
    contents = {path: collection(report)}
    contents |= {path.with_name(f"{path.stem}.{name}.json"): data for name, data in overlays(report).items()}
    for target in contents:
        check_target(target, overwrite=overwrite)
    with ExitStack() as stack:
        for target, content in contents.items():
            beside = stack.enter_context(replacing(target, overwrite=overwrite))
            beside.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    return tuple(contents)


def collection(report: Report) -> Plain:
    """The graph as Model Explorer reads it: ``{"label": …, "graphs": […]}``.

    Without a picture the graph is the sites alone, with no edges.

    >>> from laser_fx.loops import Site
    >>> from laser_fx.reporting import Report
    >>> site = SiteReport(Site("mlp.up", "loop_0", "mlp.up.weight", 8, 32, 16, 4))
    >>> (graph,) = collection(Report("Tiny", LoopNest((Loop("loop_0", 4),)), (site,)))["graphs"]
    >>> [(node["label"], node["namespace"]) for node in graph["nodes"]]
    [('linear', 'loop_0/mlp/up')]
    """
    places, nodes = _places(report.loops), _nodes(report)
    sites = {site.site.key: site for site in report.sites}
    graph = {
        "id": report.model,
        "nodes": [_node(node, places, sites.get(node.site)) for node in nodes],
        "groupNodeAttributes": {"": _about(report), **dict(_loops(report.loops, places))},
    }
    carried = [{"sourceNodeId": name, "targetNodeId": node.name} for node in nodes for name in node.carried]
    if carried:
        overlay = {"name": "to the next step", "edgeColor": _CARRY_COLOUR, "edges": carried}
        data = {"name": "what loops carry", "type": "edge_overlays", "overlays": [overlay]}
        graph["tasksData"] = {"edgeOverlaysDataListLeftPane": [data]}
    return {"label": report.model, "graphs": [graph]}


def overlays(report: Report) -> dict[str, Plain]:
    """``"rank"`` and ``"fidelity"``, as far as there are any: values by node, for the graph of `collection`.

    Fidelity is the least at which a step used its basis.
    """
    values: dict[str, Mapping[str, float | None]] = {
        "rank": {site.site.key: site.site.rank for site in report.sites},
        "fidelity": {site.site.key: site.lowest_fidelity for site in report.sites},
    }
    found = {name: _results(report, by_site) for name, by_site in values.items()}
    return {name: {report.model: {"name": name, "results": r, **_SHOWN}} for name, r in found.items() if r}


def _results(report: Report, by_site: Mapping[str, float | None]) -> Plain:
    nodes = {node.name: by_site.get(node.site) for node in _nodes(report) if node.site}
    return {name: {"value": v} for name, v in nodes.items() if v is not None and math.isfinite(v)}


def _nodes(report: Report) -> tuple[PictureNode, ...]:
    if report.picture is not None:
        return report.picture.nodes
    sites = (site.site for site in report.sites)
    return tuple(PictureNode(s.key, "linear", loop=s.loop, module=s.name, site=s.key) for s in sites)


def _node(node: PictureNode, places: Mapping[str, str], site: SiteReport | None) -> Plain:
    facts = {"kind": node.kind, "shape": node.shape, **(_facts(site) if site else {})}
    return {
        "id": node.name,
        "label": node.label,
        "namespace": _namespace(places.get(node.loop, node.loop), node.module),
        "attrs": [{"key": key, "value": value} for key, value in facts.items() if value],
        "incomingEdges": [
            {"sourceNodeId": name, "sourceNodeOutputId": "0", "targetNodeInputId": str(place)}
            for place, name in enumerate(node.inputs)
        ],
        "outputsMetadata": [{"id": "0", "attrs": [{"key": "shape", "value": node.shape}]}] if node.shape else [],
    }


def _facts(report: SiteReport) -> dict[str, str]:
    site = report.site
    found = {
        "site": site.key,
        "N × D → F": f"{site.rows} × {site.features} → {site.outputs}",
        "steps": str(site.steps),
        "rank": "" if site.rank is None else str(site.rank),
        "objective": site.objective or "",
        "left exact": report.left_exact or "",
    }
    if report.steps:
        found["lowest fidelity"] = fmt.fidelity(report.lowest_fidelity)
        found["tracked, reset, exact"] = f"{report.tracked}, {report.resets}, {report.exact}"
    return found


def _places(nest: LoopNest) -> dict[str, str]:
    """Loop → its namespace: ``loop_0/loop_0_0``."""
    found: dict[str, str] = {}

    def descend(loop: Loop, around: str) -> None:
        found[loop.name] = _namespace(around, loop.name)
        for child in loop.children:
            descend(child, found[loop.name])

    for loop in nest.loops:
        descend(loop, "")
    return found


def _namespace(around: str, module: str) -> str:
    """``loop_0/layers/0/mlp``. A slash in a module's own name is none of a path."""
    parts = (part.replace("/", "_") for part in module.split("."))
    return "/".join(part for part in (around, *parts) if part)


def _loops(nest: LoopNest, places: Mapping[str, str]) -> Iterator[tuple[str, dict[str, str]]]:
    for loop in nest.walk():
        facts = {"trips": str(loop.trip_count), "source": loop.source or "", "carry": "; ".join(loop.carry)}
        yield places[loop.name], {key: value for key, value in facts.items() if value}


def _about(report: Report) -> dict[str, str]:
    left_out = report.picture.left_out if report.picture else 0
    facts = {"made by": f"laser-fx {report.environment.get('laser-fx', '')}".strip(), "sites": str(len(report.sites))}
    return facts | ({"operators not shown": str(left_out)} if left_out else {})
