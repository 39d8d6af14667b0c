from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import Tensor

from laser_fx.compiler import CompiledModel
from laser_fx.loops import Site
from laser_fx.passes.pipeline import measure_spectra, place_sites
from laser_fx.reporting import ENERGIES
from laser_fx.reporting.instruments import spectra
from laser_fx.reporting.instruments.spectra import measure_step_spectra, sampled_steps
from laser_fx.reporting.instruments.spectrum import angles, decomposed, least_rank
from laser_fx.reporting.instruments.watch import Watcher, watch


class Activations(Watcher):
    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {}

    def at_site(self, key: str, step: int, x: Tensor) -> None:
        assert step == len(self.seen.setdefault(key, []))
        self.seen[key].append(x.reshape(-1, x.shape[-1]).double().clone())


def needed(values: Tensor, share: float) -> int:
    energies = values.square()
    return int((energies.cumsum(0) / energies.sum() < share).sum()) + 1


@pytest.mark.parametrize("name", ["trm", "contractive"])
def test_every_step_is_what_a_plain_decomposition_says(name: str, request: pytest.FixtureRequest) -> None:
    compiled: CompiledModel = request.getfixturevalue(name)
    placed = place_sites(compiled.program, "forward")
    found = measure_step_spectra(compiled.program, placed)
    seen = Activations()
    watch(compiled.program, compiled.program.rolled, seen, {p.node: p.site.key for p in placed})
    for key, activations in seen.seen.items():
        assert [step.step for step in found[key]] == list(range(len(activations)))
        before = None
        for step, x in zip(found[key], activations, strict=True):
            _, values, directions = torch.linalg.svd(x, full_matrices=False)
            centred = torch.linalg.svdvals(x - x.mean(0))
            shown = (values / values.norm())[: len(step.values)]
            # Gram matrices are exact to 1e-16 of the largest energy: values to 1e-8 of the largest value.
            torch.testing.assert_close(torch.tensor(step.values[: len(shown)]).double(), shown, atol=1e-6, rtol=2e-6)
            assert step.ranks == tuple(needed(values, share) for share in ENERGIES)
            assert step.centred_ranks == tuple(needed(centred, share) for share in ENERGIES)
            share = float(len(x) * x.mean(0).square().sum() / x.square().sum())
            assert step.mean_share == pytest.approx(share, rel=1e-5)
            leading = directions[: needed(values, 0.99)].mT
            if before is not None:
                rank = min(before.shape[1], leading.shape[1])
                expected = subspace_angles(before[:, :rank].numpy(), leading[:, :rank].numpy())
                assert step.drift == pytest.approx(expected.max(), rel=1e-4, abs=1e-6)
                assert step.mean_drift == pytest.approx(math.sqrt((expected**2).mean()), rel=1e-4, abs=1e-6)
            before = leading
        assert found[key][0].drift is None


def test_the_shares_agree_with_what_ranks_are_chosen_by(contractive: CompiledModel) -> None:
    placed = place_sites(contractive.program, "forward")
    known = measure_spectra(contractive.program, placed)
    for key, steps in measure_step_spectra(contractive.program, placed).items():
        for step, values in zip(steps, known[key], strict=True):
            shown = (values / values.norm())[: len(step.values)]
            # Those are measured in float32, by a Gram matrix where X is long.
            torch.testing.assert_close(torch.tensor(step.values[: len(shown)]), shown, atol=2e-3, rtol=1e-3)


def test_of_many_steps_some_are_measured_with_the_drift_from_the_step_before(
    trm: CompiledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = place_sites(trm.program, "forward")
    whole = measure_step_spectra(trm.program, placed)
    monkeypatch.setattr(spectra, "_MOST", 4)
    some = measure_step_spectra(trm.program, placed)
    for key, steps in some.items():
        assert len(steps) == min(4, len(whole[key]))
        assert (steps[0].step, steps[-1].step) == (0, len(whole[key]) - 1)
        assert [whole[key][step.step] for step in steps] == list(steps)


def test_the_work_is_bounded() -> None:
    sites = [Site(f"a{n}", "loop_0", "w", 2000, 768, 768, steps=500) for n in range(100)]
    chosen = sampled_steps(sites)
    assert {len(steps) for steps in chosen.values()} == {4}
    assert all(steps[0] == 0 and steps[-1] == 499 for steps in chosen.values())


def test_zeros_and_infinities_have_no_spectrum() -> None:
    assert decomposed(torch.tensor([[1.0, math.inf]]), 0.99) is None
    nothing = decomposed(torch.zeros(3, 4), 0.99)
    assert nothing is not None
    assert nothing.total == 0.0
    assert least_rank(nothing.energies, 0.9) == 0
    assert spectra._spectrum(3, nothing, None).ranks == (0, 0, 0, 0)
    assert spectra._spectrum(3, None, None).ranks == ()


def test_rows_that_are_all_equal_need_no_rank_once_centred() -> None:
    found = decomposed(torch.ones(9, 4), 0.99)
    assert found is not None
    step = spectra._spectrum(0, found, None)
    assert (step.ranks, step.centred_ranks, step.mean_share) == ((1,) * 4, (0,) * 4, 1.0)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**31))
def test_long_and_wide_activations_are_taken_apart_alike(rows: int, width: int, seed: int) -> None:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    found = decomposed(x, 0.9999)
    assert found is not None
    values = torch.linalg.svdvals(x.double())
    torch.testing.assert_close(found.energies.sqrt()[: len(values)], values, atol=1e-6, rtol=1e-6)
    gram = found.directions.mT @ found.directions
    torch.testing.assert_close(gram, torch.eye(len(gram)).double(), atol=1e-6, rtol=0)
    assert float(angles(found.directions, found.directions).max()) < 1e-6
