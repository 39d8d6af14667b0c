"""What nodes tell those who open a file in a viewer: which loop or site they are, where in the code, at what rank.

Netron shows the properties of a node beside it, and the text of a graph or function above it. Nothing here is read when
a file is run; that it names the loops and sites of the file's own metadata is checked where a file is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx_ir as ir
from torch import fx

from laser_fx.export.bodies import BODY_DOMAIN
from laser_fx.export.source import Exportable
from laser_fx.loops import Loop, Site
from laser_fx.marks import MARK, printable
from laser_fx.passes.source import node_line

__all__ = ["LOOP", "MOST", "SITE", "WORDS", "describe_nodes", "exported_name", "hand_sites_on", "sites_by_name"]

SITE, LOOP = "laser_fx.site", "laser_fx.loop"
"""Keys of the properties that name a site, and a loop."""
RANK, OBJECTIVE, SOURCE = "laser_fx.rank", "laser_fx.objective", "laser_fx.source"
TRIPS, CARRY = "laser_fx.trips", "laser_fx.carry"

WORDS = (SITE, LOOP, RANK, OBJECTIVE, SOURCE, TRIPS, CARRY)
MOST = 4096
"""Characters of one property: as many as a name may have."""

_CARRIED = 200  # characters: whoever wants more looks at the body's inputs
_PRODUCTS = {"MatMul", "Gemm", "Einsum"}
_OURS = "laser_fx"
_NAME = re.compile(r"%(\w+) ")

Told = Mapping[str, str]


def hand_sites_on(straight: fx.GraphModule) -> None:
    """Put each node's site where torch's exporter hands it on: ``meta["custom"]``, of a graph made to be exported."""
    for node in straight.graph.nodes:
        mark = node.meta.get(MARK)
        if mark is not None and mark.site:
            told = {SITE: printable(mark.site), SOURCE: printable(node_line(node) or "")}
            node.meta["custom"] = {**node.meta.get("custom", {}), MARK: told}


def sites_by_name(exported: fx.Graph) -> dict[str, Told]:
    """What came of it: name of an exported node → the properties of its site."""
    told = ((node.name, (node.meta.get("custom") or {}).get(MARK)) for node in exported.nodes)
    return {name: properties for name, properties in told if properties}


def exported_name(fx_node: str) -> str:
    """The node that torch's exporter says it translated.

    >>> exported_name("%linear_1 : [num_users=1] = call_function[target=torch.ops.aten.linear.default]")
    'linear_1'
    """
    found = _NAME.match(fx_node)
    return found[1] if found else ""


def describe_nodes(model: ir.Model, program: Exportable) -> None:
    """Write what there is to tell of a model's loops and sites; the same program gives the same text.

    A site may be several nodes: all bear its name, the first one inside a loop everything else.
    """
    loops = {loop.name: loop for loop in program.nest.walk()}
    sites = {printable(site.key): site for site in program.sites}
    described: set[str] = set()
    for depth, node in _nodes(model):
        if node.op_type == "Loop" and (loop := loops.get(str(node.name).rpartition("/")[2])):
            node.metadata_props.update(_of_loop(loop, node.inputs[0]))
            node.attributes["body"].as_graph().doc_string = _step_of(loop)
        elif key := node.metadata_props.pop(SITE, ""):
            source = node.metadata_props.pop(SOURCE, "")
            if key in sites and (node.op_type in _PRODUCTS or node.domain == _OURS):
                node.metadata_props[SITE] = key
                if depth and key not in described:
                    described.add(key)
                    node.metadata_props.update(_filled({**_of_site(sites[key]), SOURCE: source}))
    for function in model.functions.values():
        if function.domain == BODY_DOMAIN and function.name in loops:
            function.doc_string = _step_of(loops[function.name])


def _of_site(site: Site) -> dict[str, str]:
    return {RANK: "" if site.rank is None else str(site.rank), OBJECTIVE: site.objective or ""}


def _of_loop(loop: Loop, count: ir.Value | None) -> dict[str, str]:
    """A depth that is an input has a default, which may be changed in a copy: it is not told of."""
    is_input = count is not None and count.is_graph_input()
    trips = f"input {count.name}" if count is not None and is_input else str(loop.trip_count)
    carry = ", ".join(value.partition(":")[0] for value in loop.carry)
    return _filled({LOOP: loop.name, TRIPS: trips, CARRY: carry[:_CARRIED], SOURCE: loop.source or ""})


def _step_of(loop: Loop) -> str:
    return f"one step of {loop.name}" + (f", {printable(loop.source)}" if loop.source else "")


def _filled(properties: Mapping[str, str]) -> dict[str, str]:
    return {key: printable(text)[:MOST] for key, text in properties.items() if text}


def _nodes(model: ir.Model) -> Iterator[tuple[int, ir.Node]]:
    """Every node that is not in a function of the operators', with how many loops are around it."""
    for node in model.graph:
        yield from _below(node, 0)
    for function in model.functions.values():
        if function.domain == BODY_DOMAIN:
            for node in function:
                yield from _below(node, 1)


def _below(node: ir.Node, depth: int) -> Iterator[tuple[int, ir.Node]]:
    yield depth, node
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _below(inner, depth + 1)
