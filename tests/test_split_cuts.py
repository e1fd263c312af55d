"""Neurons of any activation divided at a point of their range: what is proved of each part holds at its points."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import AbstractActivation, HardTanh
from recurjac.deadline import NEVER
from recurjac.norms import SplitNorm, coupled
from recurjac.norms.coupled import Start, reconciled
from recurjac.norms.induced import vector_norm
from recurjac.norms.split_cuts import Cuts, cut_at, sided
from recurjac.norms.split_parts import HalfSpaces, Tangents
from recurjac.preactivation.centred import secant_system
from recurjac.quadratic import lifted, proved, reduced
from recurjac.quadratic.lifted import base_of
from recurjac.quadratics import Coefficients
from recurjac.testing.networks import KINDS
from tests.helpers import examples

ALL = [e for e in examples(AbstractActivation) if isinstance(e.values[0], AbstractActivation)]
SMOOTH = ("tanh", "sigmoid", "arctan", "softplus", "gelu", "silu", "sin", "hard_tanh")
DUAL = {1.0: inf, 2.0: 2.0, inf: 1.0}


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of the P-chains from which searches start."""
    monkeypatch.setattr(coupled, "_TANGENTS", 10)
    monkeypatch.setattr(coupled, "_SECANTS", 10)


def small(seed: int, activation: str, ball: float = inf, outputs: int = 1, radius: float = 0.6) -> rj.Problem:
    g = torch.Generator().manual_seed(seed)
    layers = [
        (1.5 * torch.randn(n, m, generator=g).double(), torch.randn(n, generator=g).double() / 3)
        for m, n in pairwise((3, 4, 3, outputs))
    ]
    own = HardTanh(-0.6, 0.9) if activation == "hard_tanh" else KINDS[activation]
    net = rj.load(layers, activation=own)
    return rj.Problem(net, rj.LpBall(torch.full((1, 3), 0.1).double(), radius, ball))


class Parts:
    """The duals of the first row, and points of the region with the sides of their neurons."""

    def __init__(self, problem: rj.Problem, p: float, count: int) -> None:
        gradients = rj.Gradients(problem)
        points = secant_system(gradients.state, 0, None)
        assert points is not None
        tangents = reconciled(gradients.chain.sample(0), points.chain)
        lift = lifted(tangents, torch.ones_like(points.radius))
        start = Start.of(points, tangents, p, NEVER)
        assert start is not None
        row, base = reduced(lift, base_of(tangents, points.radius), tangents.arithmetic)
        self.start, self.cuts = start, Cuts.of(points, lift.places)
        self.tangents = Tangents.of(row, self.cuts, start, tangents, p)
        self.halves = HalfSpaces.of(points, row, base, start)
        self.points = problem.bound.sample(count, torch.Generator().manual_seed(1))[0]
        z = problem.network.preactivations(self.points)
        self.z = torch.cat([z[k - 1][:, index] for k, index in lift.places], 1)
        self.signs = torch.where(self.z >= self.cuts.at, 1.0, -1.0) * self.cuts.divisible
        self.rows = testing.true_jacobians(problem.network, self.points)[:, 0].flatten(1)


@pytest.mark.parametrize("activation", ALL)
def test_products_hold_on_either_side(activation: AbstractActivation) -> None:
    g = torch.Generator().manual_seed(0)
    shape = (1, 40) if not isinstance(vars(activation).get("slope"), Tensor) else (1, *activation.slope.shape)  # type: ignore[attr-defined]
    ends = (torch.randn(3, *shape, generator=g, dtype=torch.float64) * 3).sort(0).values
    ends = (ends.abs() + 0.1).sort(0).values if activation.limited else ends  # inside of every domain
    z, c = rj.Interval(ends[0], ends[2]), ends[1]
    products, kinds = sided(activation, z, rj.Interval(c - 1e-9, c + 1e-9), rj.Rigorous())
    found = Coefficients.of(products, torch.zeros(2, 1, c.numel()).double(), rj.Rigorous())
    cut, rad = cut_at(activation, z)[0].flatten(), found.terms.rad
    assert rad is not None
    sides = torch.tensor(kinds).unsqueeze(1)
    for share in torch.linspace(0, 1, 21):
        v = z.lower + share * z.width
        y, w = (v - c).flatten(), (activation.value(v) - activation.value(c)).flatten()
        powers = torch.stack([y * y, y * w, w * w, y, w, torch.ones_like(y)]).unsqueeze(1)
        terms, spread = found.terms.mid * powers, (rad.expand_as(found.terms.mid) * powers.abs()).sum(0)
        slack = 1e-13 * (terms.abs().sum(0) + (1 + y.abs() + w.abs()).square())
        holds = ((sides == 1) & (v.flatten() >= cut)) | ((sides == -1) & (v.flatten() <= cut))
        assert bool((terms.sum(0) + spread >= -slack)[holds].all())
        assert bool((terms.sum(0) - spread <= slack)[holds & found.zero].all())


@pytest.mark.parametrize("activation", SMOOTH)
def test_slopes_of_either_side_hold_and_are_narrower(activation: str) -> None:
    parts, narrower = Parts(small(0, activation), inf, 500), 0
    for k, z in enumerate(parts.z.mT):
        own = HardTanh(-0.6, 0.9) if activation == "hard_tanh" else KINDS[activation]
        slope = own.slope_range(rj.Interval.point(z), rj.Fast())
        for side, number in ((-1, 0), (1, 1)):
            inside = (parts.signs[:, k] == side) & ((z - parts.cuts.at[k]).abs() > 1e-9)
            assert bool((slope.lower[inside] >= parts.cuts.slopes.lower[number, k] - 1e-12).all())
            assert bool((slope.upper[inside] <= parts.cuts.slopes.upper[number, k] + 1e-12).all())
        narrower += int(bool((parts.cuts.slopes.width[:, k] < parts.tangents.slopes.width[k]).any()))
    assert narrower > 0


@pytest.mark.parametrize(("activation", "p"), [(a, p) for a, p in zip(SMOOTH, (inf, 2.0, 1.0) * 3, strict=False)])
@pytest.mark.parametrize("seed", [0])
def test_bounds_of_parts_hold_at_their_points(seed: int, activation: str, p: float) -> None:
    """Of the tangents: at every point with the sides of a part; with any multipliers, and after a search."""
    parts, g = Parts(small(seed, activation), p, 60), torch.Generator().manual_seed(seed)
    true = vector_norm(parts.rows.abs(), DUAL[p], rj.Fast())
    signs = torch.where(torch.rand(parts.signs.shape, generator=g) > 0.5, parts.signs, 0.0)
    begin = parts.tangents.begin(parts.start, 0).at(torch.zeros(len(signs), dtype=torch.long))
    for steps in (1, 5):
        upper, found = parts.tangents.upper(signs, begin, steps, NEVER)
        assert bool((upper >= true * (1 - 1e-12)).all())
        assert bool(upper.isfinite().any())
        begin = found


@pytest.mark.parametrize("activation", SMOOTH)
def test_no_part_with_a_point_is_excluded(activation: str) -> None:
    assert sum(excluded(seed, activation) for seed in (0, 1)) > 0


def excluded(seed: int, activation: str) -> int:
    """How many of the sides on which no point was are excluded."""
    parts, g = Parts(small(seed, activation), inf, 120), torch.Generator().manual_seed(seed)
    able = parts.cuts.divisible.nonzero().flatten()
    neurons = able[torch.randint(0, len(able), (len(parts.signs),), generator=g)]
    rows = torch.arange(len(neurons))
    sides = parts.signs[rows, neurons]
    signs = torch.where(torch.rand(parts.signs.shape, generator=g) > 0.3, parts.signs, 0.0)
    signs[rows, neurons] = 0
    assert not bool(parts.halves.excluded(signs, neurons, sides, 20, NEVER).any())
    return int(parts.halves.excluded(signs, neurons, -sides, 20, NEVER).sum())


@pytest.mark.parametrize("activation", ["tanh", "silu", "sin"])
def test_any_multipliers_of_pieces_prove_something_true(activation: str) -> None:
    """Ranges in parts, against samples; the products of pieces pay."""
    parts, g, paid = Parts(small(1, activation), inf, 3000), torch.Generator().manual_seed(0), 0
    dual, last = parts.halves, parts.z.shape[1] - 1
    for number in range(8):
        signs = parts.signs[number : number + 1].clone()
        signs[:, last] = 0
        inside = parts.z[((parts.z - parts.cuts.at) * signs >= 0).all(1), last]
        for side in (1.0, -1.0):
            rows, neurons = dual.system.neurons.at(torch.tensor([last])).times(torch.tensor([side]).double()), [last]
            bounds = []
            for known in (signs, torch.zeros_like(signs)):
                units = dual.units(rows, known, torch.tensor(neurons))
                begin = dual.begin(dual.system.ranges.y[0, neurons], units)
                more = torch.rand(units.shape, generator=g).double() * 0.1 * (number % 3)
                more[:, dual.kinds[:, 0] == 2] = 0
                weights, numbers = (begin.logs + 0.5).exp(), (begin.numbers + more) * units
                bounds.append(proved(dual.system, rows.with_copies(0, 1), weights, numbers))
            at = dual.at.upper[last] if side > 0 else -dual.at.lower[last]
            assert float(bounds[0]) + float(at) >= float((side * inside).max()) - 1e-12
            paid += int(bool(bounds[0] < bounds[1]))
    assert paid > 0


@pytest.mark.parametrize(("activation", "p"), [(a, p) for a, p in zip(SMOOTH, (inf, 2, 1) * 3, strict=False)])
def test_rows_hold_and_more_parts_are_never_worse(activation: str, p: float) -> None:
    problem = small(3, activation, 2.0 if p == 2 else inf, 2)
    points = problem.bound.sample(2000, torch.Generator().manual_seed(0))[0]
    true = vector_norm(testing.true_jacobians(problem.network, points).flatten(2).abs(), DUAL[p], rj.Fast()).amax(0)
    few, many = (SplitNorm(4, parts).rows(rj.Gradients(problem), p)[0] for parts in (1, 9))
    assert bool((many >= true * (1 - 1e-12)).all())
    assert bool((many <= few).all())
    assert activation not in ("tanh", "arctan", "softplus", "sin") or bool((many < few).any())
