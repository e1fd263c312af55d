"""Multipliers that many rows share: whatever they are, what they prove is true, and no other factor proves more."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.deadline import Deadline
from recurjac.preactivation import DualRanges, Refine
from recurjac.preactivation.range_dual import RangeDual
from recurjac.quadratic import Affine, Rows, Shared, proved, proved_together
from recurjac.quadratic.dual_proof import Expansion
from recurjac.quadratic.dual_shared import Commons, linear_products
from tests.marks import every_seed, in_turn
from tests.test_dual import ACTIVATIONS, asked
from tests.test_dual_search import network


def drawn(dual: RangeDual, sign: float, strength: float, raised: float, g: torch.Generator) -> tuple[Affine, Shared]:
    """Rows with a sign, and random multipliers around those of the P-chain for the largest half-width."""
    rows = dual.rows.times(torch.full_like(dual.half, sign))
    units = dual.units(Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1)))
    begin, linear = dual.begin(dual.half[:1], units[:1]), linear_products(dual.system.terms.mid)
    extra = strength * torch.rand(units.shape, generator=g).double()
    signs = torch.where(dual.free & (torch.rand(units.shape[1:], generator=g) > 0.5), -1.0, 1.0)
    common = (begin.numbers + extra[:1] * signs) * units[:1]
    own = torch.where(linear, extra * units, 0.0)
    scale = torch.rand(len(dual.half), generator=g).double() + 0.5
    return rows, Shared((begin.logs + raised).exp(), torch.where(linear, 0.0, common), scale, own)


@pytest.mark.parametrize(("activation", "p", "seed"), in_turn(ACTIVATIONS, [inf, 2], [0, 1]))
def test_any_shared_multipliers_prove_something_true(activation: str, p: float, seed: int) -> None:
    _, dual, rise = asked(seed, activation, p)
    g, finite = torch.Generator().manual_seed(seed), 0
    for sign in (1.0, -1.0):
        most = (sign * rise).amax(0)
        for strength in (0.0, 0.01, 0.3, 3.0):
            for raised in (-2.0, -0.3, 0.3, 1.0):
                rows, shared = drawn(dual, sign, strength, raised, g)
                bound = proved_together(dual.system, rows.with_copies(0, 1), shared)
                assert bool((bound >= most - 1e-12).all())
                finite += int(bound.isfinite().sum())
    assert finite > 20


@every_seed
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("p", [inf, 2])
def test_one_factorisation_proves_what_each_row_proves_by_itself(seed: int, activation: str, p: float) -> None:
    """At the best factor of each row: what the same multipliers prove row by row, up to rounding, and no less."""
    _, dual, _ = asked(seed, activation, p)
    g, plain, compared = torch.Generator().manual_seed(seed), dual.system.plain(), 0
    for strength in (0.0, 0.05, 0.3):
        rows, shared = drawn(dual, 1.0, strength, 0.5, g)
        shared = replace(shared, weights=shared.weights.float().double(), common=shared.common.float().double())
        asked_for = Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1))
        commons, lines = Commons.of(plain, shared.weights, shared.common), plain.totals(shared.own).own[3:, :, 0]
        if not commons.concave:
            continue
        best, scale = commons.maximum(asked_for, (lines[0], lines[1], lines[2].sum(1)))
        mine = replace(shared, scale=scale)
        together = proved_together(dual.system, rows.with_copies(0, 1), shared)
        alone = proved(dual.system, rows.with_copies(0, 1), mine.row_weights, mine.multipliers)
        exact = plain.maximum(asked_for, mine.row_weights, mine.multipliers)
        assert torch.allclose(together, alone, rtol=1e-7, atol=1e-9)
        assert bool((together >= exact.value - 1e-12 * exact.value.abs()).all())
        for a, b in ((best.value, exact.value), (best.v, exact.v), (best.w, exact.w), (best.y, exact.y)):
            assert torch.allclose(a, b, rtol=1e-7, atol=1e-8)
        for factor in (0.5, 0.97, 1.03, 2.0):
            other = replace(shared, scale=scale * factor)
            value = plain.maximum(asked_for, other.row_weights, other.multipliers).value
            assert bool((value >= exact.value - 1e-9 * exact.value.abs()).all())
        compared += 1
    assert compared > 0


def test_what_is_indefinite_counts_in_each_row_by_its_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is smaller than what sampling could show: so the proof is asked what another unit of it would cost."""
    _, dual, _ = asked(0, "relu", inf)
    rows, shared = drawn(dual, 1.0, 0.05, 0.5, torch.Generator().manual_seed(0))
    commons = Commons.of(dual.system.plain(), shared.weights.float().double(), shared.common.float().double())
    lines = commons.plain.totals(shared.own).own[3:, :, 0]
    asked_for = Rows(rows.base.mid.unsqueeze(1), rows.units.mid.unsqueeze(1))
    scale = commons.maximum(asked_for, (lines[0], lines[1], lines[2].sum(1)))[1]
    before, real = proved_together(dual.system, rows.with_copies(0, 1), shared), Expansion.indefinite
    monkeypatch.setattr(Expansion, "indefinite", lambda expansion: real(expansion) + 1.0)
    after = proved_together(dual.system, rows.with_copies(0, 1), shared)
    assert bool(before.isfinite().all() & (scale > 0).all())
    assert torch.allclose(after - before, scale, rtol=1e-9, atol=1e-9)


def test_own_multipliers_of_products_with_squares_are_not_counted() -> None:
    """The shared matrix knows nothing of them, so that with them nothing would be proved."""
    _, dual, _ = asked(0, "relu", inf)
    rows, shared = drawn(dual, 1.0, 0.01, 0.5, torch.Generator().manual_seed(0))
    more = replace(shared, own=shared.own + 1.0)
    lines = torch.where(linear_products(dual.system.terms.mid), more.own, 0.0)
    bounds = [proved_together(dual.system, rows.with_copies(0, 1), replace(shared, own=o)) for o in (more.own, lines)]
    assert bool(bounds[0].isfinite().all())
    assert torch.equal(*bounds)


def test_systems_that_are_not_concave_prove_nothing() -> None:
    _, dual, _ = asked(0, "relu", inf)
    rows, shared = drawn(dual, 1.0, 0.0, 0.0, torch.Generator().manual_seed(0))
    bound = proved_together(dual.system, rows.with_copies(0, 1), replace(shared, weights=shared.weights * 1e-3))
    assert bool(bound.isinf().all())


def widths(rule: DualRanges, seed: int, activation: str) -> Tensor:
    net, region = network(seed, activation), rj.LpBall(torch.full((1, 6), 0.1).double(), 0.5)
    bounds = rj.preactivation_bounds(net, region, pre=Refine(rj.Crown(), rule))
    points = rj.Problem(net, region).bound.sample(2000, torch.Generator().manual_seed(seed))[0]
    for z, low, high in zip(net.preactivations(points), bounds.lower, bounds.upper, strict=True):
        assert bool(((z >= low) & (z <= high)).all())
    return bounds.upper[1] - bounds.lower[1]


@every_seed
def test_shared_multipliers_narrow_ranges(seed: int) -> None:
    """Those of 20 neurons, which are never wider for it."""
    without, some = (widths(DualRanges(0, 0, together=n), seed, "relu") for n in (0, 40))
    assert bool((some <= without).all())
    assert float(some.sum()) < 0.9 * float(without.sum())


def test_a_row_of_zeros_and_a_dead_neuron_do_not_disturb_the_others() -> None:
    g = torch.Generator().manual_seed(0)
    sizes = (6, 20, 20, 3)
    layers = [
        (torch.randn(n, m, generator=g).double() / m**0.5, torch.randn(n, generator=g).double() / 4)
        for m, n in pairwise(sizes)
    ]
    layers[1][0][3], layers[0][1][5] = 0.0, -50.0
    net, region = rj.load(layers, activation="relu"), rj.LpBall(torch.full((1, 6), 0.1).double(), 0.5)
    found = [
        rj.preactivation_bounds(net, region, pre=Refine(rj.IBP(), DualRanges(0, 0, together=n))).upper[1]
        for n in (30, 0)
    ]
    assert float(found[0][0, 3]) == pytest.approx(float(layers[1][1][3]))
    assert float((found[1] - found[0]).mean()) > 0.01


def test_without_time_there_are_no_shared_multipliers() -> None:
    _, dual, _ = asked(0, "relu", inf)
    assert dual.upper_together(torch.ones_like(dual.half), 20, Deadline.after(0.0)) is None
    found = dual.upper_together(torch.ones_like(dual.half), 20)
    assert found is not None
    assert bool((found[0] <= 1.1 * dual.half).all())
