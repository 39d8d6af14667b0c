"""Rewrites a rolled graph at its sites; what stands there afterwards is the business of the pass that asks.

A `SiteRewriter` writes the new nodes of one site. This module does what all such passes share: it copies the graph,
hands bases from step to step as carries of every loop around a site, passes constants down as invariants or, where each
step has its own, as rows of stacked values, and collects each site's record as a step output of every loop around it,
up to extra outputs of the whole graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from laser_fx.loops import Site
from laser_fx.marks import MARK, Mark
from laser_fx.nodes import GRAD_ENABLED
from laser_fx.passes.find_sites import PlacedSite
from laser_fx.passes.infra import finish, getitem, rolled_loop
from laser_fx.passes.result_places import ResultPlaces
from laser_fx.passes.site_rewriter import Carried, Emitter, RewrittenSites, SiteRewriter, identifier
from laser_fx.rolled import RolledLoop

__all__ = ["Carried", "Emitter", "RewrittenSites", "SiteRewriter", "identifier", "rewrite_sites"]


def rewrite_sites(rolled: fx.GraphModule, placed: Sequence[PlacedSite], rewriter: SiteRewriter) -> RewrittenSites:
    """Rewrite every site of ``rolled``; the given graph stays as it is."""
    shapes = rewriter.constants(placed)
    return _Top(rolled, placed, rewriter, shapes).run()


class _Copier:
    """Copies one graph level; sites, loops and outputs are rewritten on the way."""

    loop_name = ""

    def __init__(self, source: fx.GraphModule, placed: Mapping[fx.Node, Site], rewriter: SiteRewriter) -> None:
        self.source, self.placed, self.rewriter = source, placed, rewriter
        self.made_by = type(rewriter).__module__.rpartition(".")[2]  # one pass, one file
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.env: dict[fx.Node, Any] = {}
        self.sites = list(sites_inside(source, placed))
        self.bases: dict[str, Carried] = {}
        self.prepared: dict[str, tuple[fx.Node, ...]] = {}
        self.records: dict[str, fx.Node] = {}

    def emitter(self, near: fx.Node) -> Emitter:
        mark, trace = Mark(self.loop_name, "", self.made_by), near.stack_trace
        return Emitter(self.graph, fake_mode_of(self.source), bool(near.meta.get(GRAD_ENABLED)), mark, trace)

    def copy(self, node: fx.Node) -> None:
        loop = rolled_loop(self.source, node)
        if loop is not None:
            self._loop(node, loop)
        elif node.target is getitem and isinstance(self.env[node.all_input_nodes[0]], _Call):
            self.env[node] = self._result(node)
        else:
            self._plain(node)

    def _plain(self, node: fx.Node) -> None:
        site = self.placed.get(node)
        if site is not None:
            replaced = self._site(node, site)
            if replaced is not None:
                self.env[node] = replaced
                return
        self.env[node] = self.graph.node_copy(node, lambda n: self.env[n])

    def _site(self, node: fx.Node, site: Site) -> fx.Node | None:
        linear = tuple(self.env[a] if isinstance(a, fx.Node) else a for a in node.args)
        value, basis, record = self.rewriter.write(
            self.emitter(node).at(site.key), site, linear, self.bases.get(site.key, {}), self.prepared[site.key]
        )
        if basis:
            self.bases[site.key] = basis
        if record is not None:
            self.records[site.key] = record
        return value

    def _loop(self, node: fx.Node, loop: RolledLoop) -> None:
        body = _Body(loop, self.placed, self.rewriter, node)
        keys = [site.key for site in body.sites]
        old = [self.env[a] if isinstance(a, fx.Node) else a for a in node.args]
        carried = self._carried(keys)
        stacked = self._distinct(body.sites, stacked=True)
        handed = self._distinct(body.sites, stacked=False)
        bases = [self.bases.get(key, {}) for key in keys]
        module = body.run([self.prepared[key] for key in keys], stacked, handed, bases)
        name = str(node.target)
        self.root.add_module(name, module)
        varying = old[loop.carry_count : loop.varying_arguments]
        fixed = old[loop.varying_arguments :]
        arguments = (*old[: loop.carry_count], *carried, *varying, *stacked, *fixed, *handed)
        call = self.graph.call_module(name, arguments)
        call.name = node.name
        places = ResultPlaces.of(loop, len(node.meta["val"]), len(carried), len(body.records))
        records = [[record.meta["val"]] * loop.trip_count for record in body.records.values()]
        call.meta = {**node.meta, "val": places.merged(node.meta["val"], [b.meta["val"] for b in carried], records)}
        self.env[node] = _Call(call, places)
        self._take_bases(call, places.old_carry, keys, self.emitter(node))
        self._take_records(call, places.old_lists + len(carried), keys, self.emitter(node))

    def _take_bases(self, call: fx.Node, first: int, keys: Sequence[str], emit: Emitter) -> None:
        place = itertools.count(first)
        for key in keys:
            words, here = self.bases.get(key, {}), emit.at(key)
            self.bases[key] = {word: self._take(here, call, next(place), f"{word}_{identifier(key)}") for word in words}

    def _take_records(self, call: fx.Node, first: int, keys: Sequence[str], emit: Emitter) -> None:
        if self.rewriter.records:
            for place, key in enumerate(keys, first):
                self.records[key] = self._take(emit.at(key), call, place, f"record_{identifier(key)}")

    def _carried(self, keys: Sequence[str]) -> list[fx.Node]:
        return [value for key in keys for value in self.bases.get(key, {}).values()]

    def _distinct(self, sites: Sequence[Site], *, stacked: bool) -> list[fx.Node]:
        """What the sites of a loop were prepared, each value once: that which differs by step, or all else."""
        parts = ((self.prepared[site.key], self.rewriter.stacked(site)) for site in sites)
        return list(
            dict.fromkeys(v for values, count in parts for v in (values[:count] if stacked else values[count:]))
        )

    def _take(self, emit: Emitter, call: fx.Node, index: int, name: str) -> fx.Node:
        node = self.graph.create_node("call_function", getitem, (call, index), {}, name)
        node.meta = {"val": call.meta["val"][index], GRAD_ENABLED: emit.grad_enabled, MARK: emit.mark}
        return node

    def _result(self, node: fx.Node) -> fx.Node:
        """A result of a loop, at its new place."""
        call: _Call = self.env[node.all_input_nodes[0]]
        copied = self.graph.create_node(
            "call_function", getitem, (call.node, call.places.moved(node.args[1])), {}, node.name
        )
        copied.meta = dict(node.meta)
        return copied


@dataclass(frozen=True)
class _Call:
    """A rewritten loop call, and where its results are."""

    node: fx.Node
    places: ResultPlaces


class _Top(_Copier):
    def __init__(
        self,
        source: fx.GraphModule,
        placed: Sequence[PlacedSite],
        rewriter: SiteRewriter,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__(source, {p.node: p.site for p in placed}, rewriter)
        self.shapes = shapes

    def run(self) -> RewrittenSites:
        holders = [n for n in self.source.graph.nodes if n.op == "placeholder"]
        for node in holders:
            self.copy(node)
        emit = self.emitter(holders[0])
        constants = {name: emit.placeholder(name, self._fake(shape, holders)) for name, shape in self.shapes.items()}
        for site in self.sites:
            here = emit.at(site.key)
            self.prepared[site.key] = self.rewriter.prepare(here, site, constants)
            if self.rewriter.carries_basis:
                self.bases[site.key] = self.rewriter.first_basis(here, site)
        for node in self.source.graph.nodes:
            if node.op == "output":
                results = fx.map_arg(node.args[0], lambda n: self.env[n])
                self.graph.output((*results, *self.records.values()))
            elif node.op != "placeholder":
                self.copy(node)
        graph_module = finish(self.root, self.graph, self.rewriter.title)
        notes = tuple(f"{self.rewriter.title}: {site.key}" for site in self.sites)
        return RewrittenSites(graph_module, notes, tuple(self.records), tuple(self.shapes))

    def _fake(self, shape: tuple[int, ...], holders: Sequence[fx.Node]) -> torch.Tensor:
        device = next(n.meta["val"].device for n in holders if isinstance(n.meta["val"], torch.Tensor))
        with fake_mode_of(self.source):
            return torch.empty(shape, device=device)


class _Body(_Copier):
    def __init__(self, loop: RolledLoop, placed: Mapping[fx.Node, Site], rewriter: SiteRewriter, call: fx.Node) -> None:
        super().__init__(loop.body, placed, rewriter)
        self.loop, self.call, self.loop_name = loop, call, loop.name

    def run(
        self,
        prepared: Sequence[Sequence[fx.Node]],
        stacked: Sequence[fx.Node],
        handed: Sequence[fx.Node],
        bases: Sequence[Carried],
    ) -> RolledLoop:
        """Write the body. All that is given are nodes of the parent's graph."""
        holders = [n for n in self.source.graph.nodes if n.op == "placeholder"]
        emit = self.emitter(self.call)
        for node in holders[: self.loop.carry_count]:
            self.copy(node)
        for site, basis in zip(self.sites, bases, strict=True):
            self.bases[site.key] = {
                word: emit.at(site.key).placeholder(f"carry_{word}_{identifier(site.key)}", value.meta["val"])
                for word, value in basis.items()
            }
        for node in holders[self.loop.carry_count : self.loop.varying_inputs]:
            self.copy(node)
        received = {value: emit.placeholder(value.name, self._row(value)) for value in stacked}
        for node in holders[self.loop.varying_inputs :]:
            self.copy(node)
        received |= {value: emit.placeholder(value.name, value.meta["val"]) for value in handed}
        for site, values in zip(self.sites, prepared, strict=True):
            self.prepared[site.key] = tuple(received[value] for value in values)
        for node in self.source.graph.nodes:
            if node.op == "output":
                self._output(node)
            elif node.op != "placeholder":
                self.copy(node)
        body = finish(self.root, self.graph, self.loop.name)
        return self.loop.changed(
            body=body,
            carry_count=self.loop.carry_count + sum(map(len, bases)),
            stacked_count=self.loop.stacked_count + len(stacked),
        )

    def _row(self, whole: fx.Node) -> Any:
        with fake_mode_of(self.source):
            return whole.meta["val"][0]

    def _output(self, node: fx.Node) -> None:
        results: Any = fx.map_arg(node.args[0], lambda n: self.env[n])
        # Records come in the order of the sites, which is the order in which the parent takes them.
        self.records = {site.key: self.records[site.key] for site in self.sites if self.rewriter.records}
        bases = self._carried([site.key for site in self.sites])
        places = ResultPlaces.of(self.loop, len(results), len(bases), len(self.records))
        self.graph.output(tuple(places.merged(results, bases, list(self.records.values()))))


def sites_inside(graph_module: fx.GraphModule, placed: Mapping[fx.Node, Site]) -> list[Site]:
    """Sites of a graph and of all loops in it, in program order."""
    found: list[Site] = []
    for node in graph_module.graph.nodes:
        loop = rolled_loop(graph_module, node)
        if loop is not None:
            found.extend(sites_inside(loop.body, placed))
        elif node in placed:
            found.append(placed[node])
    return found


def fake_mode_of(graph_module: fx.GraphModule) -> Any:
    """The mode that made the graph's fake values."""
    values = (n.meta.get("val") for n in graph_module.graph.nodes)
    return next(v.fake_mode for v in values if isinstance(v, torch._subclasses.FakeTensor))
