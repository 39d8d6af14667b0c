from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx

import laser_fx
from laser_fx.errors import PassError
from laser_fx.memory.measure import saved_bytes
from laser_fx.options import Options
from laser_fx.passes.find_sites import PlacedSite, find_sites
from laser_fx.passes.insert_probes import insert_probes
from laser_fx.passes.insert_tracking import insert_tracking
from laser_fx.passes.rewrite_sites import RewrittenSites
from laser_fx.program import Program, flat_record
from tests.nests import CASES
from tests.small import WIDTH, Contractive, exact, looped, low_rank, model, same, small_trm, trm_batch


def placed(module: torch.nn.Module, *inputs: Any, **options: Any) -> tuple[Program, tuple[PlacedSite, ...]]:
    program = exact(module, *inputs).program
    return program, find_sites(program.rolled, program.capture.states, **options)


def names(found: tuple[PlacedSite, ...]) -> list[str]:
    return [p.site.key for p in found]


def test_a_site_is_a_linear_in_a_loop_and_knows_its_sizes() -> None:
    program, found = placed(Contractive(), torch.randn(5, 32))
    assert names(found) == ["loop_0:up", "loop_0:down"]
    up = found[0].site
    assert (up.weight, up.shape, up.outputs, up.steps, up.rank) == ("up.weight", (5, 32), 96, 6, None)
    assert found[0].node in set(program.rolled.loop_0.body.graph.nodes)


def test_the_sites_of_the_trm_are_its_blocks_linears_in_both_loops() -> None:
    trm, batch = small_trm(), trm_batch(3)
    _, found = placed(trm, trm.initial_carry(batch), batch)
    layers = ["self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"]
    paths = [f"inner.L_level.layers.0.{layer}" for layer in layers]
    assert names(found) == [f"{loop}:{path}" for loop in ("loop_0_0", "loop_0") for path in paths]
    assert [p.site.steps for p in found] == [4] * 4 + [2] * 4
    assert found[0].site.shape == (27, 16)


def test_linears_outside_of_loops_or_untied_are_no_sites() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = self.untied[0](x)
        for _ in range(3):
            z = torch.tanh(self.a(z) + x)
        return self.b(z)

    assert names(placed(model(forward), torch.randn(3, WIDTH))[1]) == ["loop_0:a"]


def test_a_module_called_twice_in_a_body_makes_two_sites() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        z = x
        for _ in range(3):
            z = torch.tanh(self.b(torch.relu(self.b(z)) * x))
        return z

    assert names(placed(model(forward), torch.randn(3, WIDTH))[1]) == ["loop_0:b", "loop_0:b#1"]


def test_a_region_without_gradients_has_no_sites_for_training() -> None:
    module = model(CASES["gradient_through_the_last_step"].forward).train()
    assert names(placed(module, torch.randn(3, WIDTH))[1]) == ["loop_0:a"]
    assert names(placed(module, torch.randn(3, WIDTH), with_gradients=True)[1]) == []


def test_a_frozen_linear_is_no_site_for_training_and_keeps_nothing_more_than_eager() -> None:
    module, x = Contractive(trips=3).train(), low_rank(64, 32)
    module.up.weight.requires_grad_(False)
    assert names(placed(module, x)[1]) == ["loop_0:up", "loop_0:down"]
    assert names(placed(module, x, with_gradients=True)[1]) == ["loop_0:down"]
    module.down.weight.requires_grad_(False)  # the biases still train
    compiled = laser_fx.compile(module, options=Options(rank=2, fidelity=0.5))
    assert saved_bytes(lambda: compiled(x), exclude=[x]) == saved_bytes(lambda: module(x), exclude=[x])


def ranked(found: tuple[PlacedSite, ...], rank: int = 3, objective: str | None = None) -> list[PlacedSite]:
    return [replace(p, site=replace(p.site, rank=rank, objective=objective)) for p in found]


def bodies(graph_module: fx.GraphModule) -> list[fx.GraphModule]:
    return [graph_module, *(inner for child in graph_module.children() for inner in bodies(child.body))]


def printed(result: RewrittenSites) -> str:
    return "".join(level.print_readable(print_output=False) for level in bodies(result.graph_module))


def test_track_reset_and_linear_stand_at_the_site_under_its_name() -> None:
    program, found = placed(Contractive(), torch.randn(5, 32))
    text = printed(insert_tracking(program.rolled, ranked(found), "forward"))
    for site in ("up", "down"):
        for name, operator in (("track",) * 2, ("reset",) * 2, ("fold",) * 2, ("linear", "folded_linear")):
            assert re.search(rf"\b{name}_{site}\b[^=\n]*= torch\.ops\.laser\.{operator}\.default\(", text)
    assert "aten.linear" not in text


def test_a_site_that_keeps_its_output_is_one_operator_of_its_name() -> None:
    program, found = placed(Contractive(), torch.randn(5, 32))
    result = insert_tracking(program.rolled, ranked(found, objective="output"), "forward")
    text = printed(result)
    assert all(
        re.search(rf"\btrack_{s}\b[^=\n]*= torch\.ops\.laser\.output_linear\.default\(", text) for s in ("up", "down")
    )
    assert "laser.reset" not in text
    assert "aten.linear" not in text
    assert set(result.constants) == {"fidelity", "sketch_96", "sketch_32", "probes_96", "probes_32"}


def test_in_training_the_linear_is_exact_and_its_activation_is_only_seen() -> None:
    program, found = placed(Contractive().train(), torch.randn(5, 32))
    text = printed(insert_tracking(program.rolled, ranked(found), "backward"))
    assert re.search(r"\blinear_up\b[^=\n]*= torch\.ops\.laser\.linear\.default\(", text)
    assert "seen_up" in text
    assert "lowrank" not in text


def test_bases_are_carried_through_every_loop_around_a_site() -> None:
    trm, batch = small_trm(), trm_batch(3)
    program, found = placed(trm, trm.initial_carry(batch), batch)
    result = insert_tracking(program.rolled, ranked(found), "forward")
    outer, inner = result.graph_module.loop_0, result.graph_module.loop_0.body.loop_0_0
    assert (outer.carry_count, inner.carry_count) == (2 + 2 * 8, 1 + 2 * 4)
    inner_carry = [n.name for n in inner.body.graph.find_nodes(op="placeholder")][1:9]
    assert all(name.startswith(("carry_basis_", "carry_folded_")[i % 2]) for i, name in enumerate(inner_carry))
    returned = inner.body.graph.output_node().args[0][1:9]
    assert all(node.name.startswith(("next_basis_", "fold_")[i % 2]) for i, node in enumerate(returned))
    assert result.records == tuple(p.site.key for p in found)
    assert result.constants == ("fidelity", *(f"sketch_{d}" for d in dict.fromkeys(p.site.features for p in found)))


def test_a_training_graph_carries_bases_alone() -> None:
    trm, batch = small_trm(), trm_batch(3)
    program, found = placed(trm, trm.initial_carry(batch), batch)
    outer = insert_tracking(program.rolled, ranked(found), "backward").graph_module.loop_0
    assert (outer.carry_count, outer.body.loop_0_0.carry_count) == (2 + 8, 1 + 4)


def test_the_given_graph_is_untouched() -> None:
    program, found = placed(Contractive(), torch.randn(5, 32))
    before = [level.code for level in bodies(program.rolled)]
    insert_tracking(program.rolled, ranked(found), "forward")
    insert_probes(program.rolled, found)
    assert [level.code for level in bodies(program.rolled)] == before


def test_a_site_needs_a_rank_to_be_tracked() -> None:
    program, found = placed(looped(), torch.randn(3, WIDTH))
    with pytest.raises(PassError, match="a site without a rank"):
        insert_tracking(program.rolled, found, "forward")


def test_probes_measure_and_change_nothing() -> None:
    x = low_rank(6, 32)
    program, found = placed(Contractive(), x)
    probed = insert_probes(program.rolled, found)
    with torch.no_grad():
        *values, up, down = program.run_graph(probed.graph_module, (x,))
        assert same(values, list(program.run_graph(program.rolled, (x,))))
    assert probed.records == ("loop_0:up", "loop_0:down")
    assert [len(list(flat_record(r))) for r in (up, down)] == [6, 6]
    # z is zero at first, so the first activation is x itself.
    torch.testing.assert_close(up[0][:6], torch.linalg.svdvals(x), atol=1e-4, rtol=1e-4)
    assert "spectrum_up" in printed(probed)


def test_outputs_are_probed_without_their_bias() -> None:
    x = low_rank(6, 32)
    program, found = placed(Contractive(), x)
    probed = insert_probes(program.rolled, found, "output")
    with torch.no_grad():
        *values, up, _ = program.run_graph(probed.graph_module, (x,))
        assert same(values, list(program.run_graph(program.rolled, (x,))))
    expected = torch.linalg.svdvals(x @ program.model.up.weight.mT)
    torch.testing.assert_close(up[0][:6], expected, atol=1e-4, rtol=1e-4)


def test_probes_of_nested_loops_come_step_by_step() -> None:
    program, found = placed(model(CASES["three_deep"].forward), torch.randn(3, WIDTH))
    probed = insert_probes(program.rolled, found)
    with torch.no_grad():
        values = program.run_graph(probed.graph_module, (torch.randn(3, WIDTH),))
    records = dict(zip(probed.records, values[-len(probed.records) :], strict=True))
    assert {key: len(list(flat_record(record))) for key, record in records.items()} == {
        p.site.key: p.site.steps for p in found
    }
