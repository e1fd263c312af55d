"""Norms by splitting signs: never below the enumerated truth, and exact at the end; parts with a point are kept."""

from __future__ import annotations

from itertools import pairwise, product
from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import LeakyReLU
from recurjac.deadline import NEVER
from recurjac.norms import SplitNorm, coupled
from recurjac.norms import split as module
from recurjac.norms.coupled import Start, reconciled
from recurjac.norms.split_parts import HalfSpaces
from recurjac.preactivation.centred import secant_system
from recurjac.quadratic import lifted, proved, reduced
from recurjac.quadratic.lifted import base_of
from recurjac.quadratic.parts import eliminated
from tests.marks import in_turn
from tests.test_coupled import attained
from tests.test_dual import network

SLOPES = {"relu": 0.0, "abs": -1.0, "leaky": 0.3}


def small(seed: int, activation: str, outputs: int = 1) -> rj.Problem:
    """Dense layers 3-4-3-K over a box in which many of the neurons are unstable."""
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(n, m, generator=g).double(), torch.randn(n, generator=g).double() / 3)
        for m, n in pairwise((3, 4, 3, outputs))
    ]
    net = rj.load(layers, activation=LeakyReLU(0.3) if activation == "leaky" else activation)
    return rj.Problem(net, rj.LpBall(torch.full((1, 3), 0.1).double(), 0.4))


def enumerated(problem: rj.Problem, slope: float) -> tuple[float, float]:
    """The largest l1 norm of the gradient over all signs that a point has, with some room and up to a small error."""
    layers = _dense(problem)
    box = problem.bound.box(rj.Fast())
    ends = list(zip(box.lower[0].tolist(), box.upper[0].tolist(), strict=True))
    inner = sum(len(b) for _, b in layers[:-1])
    least, most = 0.0, 0.0
    for signs in product((1.0, -1.0), repeat=inner):
        a, c, rows, at = torch.eye(3).double(), torch.zeros(3).double(), [], 0
        for weight, bias in layers[:-1]:
            sign = torch.tensor(signs[at : at + len(bias)]).double()
            z, offset, at = weight @ a, weight @ c + bias, at + len(bias)
            rows.append((sign.unsqueeze(1) * z, sign * offset))
            slopes = torch.where(sign > 0, torch.ones_like(sign), slope)
            a, c = slopes.unsqueeze(1) * z, slopes * offset
        norm = float((layers[-1][0] @ a).abs().sum(1).max())
        if norm <= least:
            continue
        room = _room(torch.cat([r for r, _ in rows]), torch.cat([o for _, o in rows]), ends)
        least = max(least, norm if room > 1e-9 else 0.0)
        most = max(most, norm if room > -1e-3 else 0.0)
    return least, max(least, most)


def _dense(problem: rj.Problem) -> list[tuple[Tensor, Tensor]]:
    """The weights and biases, from the network's values at the origin and at unit vectors."""
    found = []
    for stage in problem.network.stages:
        operator, bias = stage.edges[0].operator, stage.bias(rj.Fast())
        assert bias is not None
        columns = operator.push(rj.Fast().exact(torch.eye(operator.in_shape[0]).double())).mid
        found.append((columns.mT, bias.mid.double()))
    return found


def _room(rows: Tensor, offsets: Tensor, ends: list[tuple[float, float]]) -> float:
    """max over the box of the least of rows · x + offsets."""
    found = linprog(
        np.r_[np.zeros(rows.shape[1]), -1.0], A_ub=np.hstack([-rows.numpy(), np.ones((len(rows), 1))]),
        b_ub=offsets.numpy(), bounds=[*ends, (None, None)],
    )  # fmt: skip
    return float(-found.fun)


@pytest.fixture(autouse=True)
def quick_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of the P-chains from which searches start."""
    monkeypatch.setattr(coupled, "_TANGENTS", 10)
    monkeypatch.setattr(coupled, "_SECANTS", 10)


@pytest.mark.parametrize(("activation", "seed"), in_turn(list(SLOPES), [0, 3]))
def test_it_ends_with_the_exact_constant(activation: str, seed: int) -> None:
    """Against enumeration of all signs, of which a linear programme says whether a point has them."""
    problem = small(seed, activation)
    least, most = enumerated(problem, SLOPES[activation])
    upper = float(SplitNorm(100, 400).rows(rj.Gradients(problem), inf))
    assert least * (1 - 1e-12) <= upper <= most * (1 + 1e-5)


@pytest.mark.parametrize(
    ("activation", "norms"), in_turn(["relu", "abs", "hard_tanh", "tanh"], [(inf, inf), (2, 2), (1, inf)])
)
def test_rows_hold_and_more_parts_are_never_worse(activation: str, norms: tuple[float, float]) -> None:
    (p, ball), net = norms, network(1, activation)
    problem = rj.Problem(net, rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.6, ball))
    gradients, most = rj.Gradients(problem), attained(problem, p)
    few, many = (SplitNorm(5, parts).rows(gradients, p)[0] for parts in (1, 20))
    assert bool((many >= most * (1 - 1e-12)).all())
    assert bool((many <= few).all())
    assert activation not in ("relu", "abs") or bool((many < few).any())


def test_what_is_attained_ends_the_search() -> None:
    problem = small(0, "relu", 2)
    found = rj.lipschitz(problem, p=inf, q=inf, method=SplitNorm(10, 60), search=rj.Search(work=1e5))
    plain = SplitNorm(10, 60).rows(rj.Gradients(problem), inf).amax(1)
    assert bool((found.lower <= found.upper).all())
    assert bool((found.upper <= torch.maximum(plain, found.lower) * (1 + 1e-12)).all())


def halves(problem: rj.Problem) -> HalfSpaces:
    gradients = rj.Gradients(problem)
    points = secant_system(gradients.state, 0, None)
    assert points is not None
    tangents = reconciled(gradients.chain.sample(0), points.chain)
    lift = lifted(tangents, torch.ones_like(points.radius))
    start = Start.of(points, tangents, inf, NEVER)
    assert start is not None
    row, base = reduced(lift, base_of(tangents, points.radius), tangents.arithmetic)
    return HalfSpaces.of(points, row, base, start)


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky"])
@pytest.mark.parametrize("seed", [0, 1])
def test_any_multipliers_of_half_spaces_prove_something_true(seed: int, activation: str) -> None:
    """Of a neuron over the points with some signs, against samples; half-spaces pay."""
    problem = small(seed, activation)
    dual, g = halves(problem), torch.Generator().manual_seed(seed)
    points = problem.bound.sample(4000, g)[0]
    z = torch.cat(problem.network.preactivations(points)[:2], 1)
    state = problem.preactivations()
    unknown = torch.cat([state.unstable(k, state.pre(k)).flatten() for k in (1, 2)])
    z = z[:, unknown]
    last, count = z.shape[1] - 1, z.shape[1]
    paid = 0
    for number in range(12):
        signs = (torch.randint(-1, 2, (1, count), generator=g)).double()
        signs[:, last] = 0
        inside = z[((z * signs) >= 0).all(1), last]
        neurons = torch.tensor([last])
        for side in (1.0, -1.0):
            rows = dual.system.neurons.at(neurons).times(torch.tensor([side]).double())
            bounds = []
            for known in (signs, torch.zeros_like(signs)):
                units = dual.units(rows, known, neurons)
                begin = dual.begin(dual.system.ranges.y[0, neurons], units)
                more = torch.rand(units.shape, generator=g).double() * 0.3 * (number % 3)
                more = torch.where(dual.free & (torch.rand(units.shape, generator=g) > 0.5), -more, more)
                more[:, -1] = 0
                weights, numbers = (begin.logs + 0.5).exp(), (begin.numbers + more) * units
                bounds.append(proved(dual.system, rows.with_copies(0, 1), weights, numbers))
            at = dual.at.upper[last] if side > 0 else -dual.at.lower[last]
            if len(inside):
                assert float(bounds[0]) + float(at) >= float((side * inside).max()) - 1e-12
            paid += int(bool(bounds[0] < bounds[1]))
    assert paid > 0 or int((dual.nodes == dual.nodes[last]).sum()) == count


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_part_with_a_point_is_excluded(seed: int, activation: str) -> None:
    problem = small(seed, activation)
    dual, g = halves(problem), torch.Generator().manual_seed(seed)
    state = problem.preactivations()
    unknown = torch.cat([state.unstable(k, state.pre(k)).flatten() for k in (1, 2)])
    points = problem.bound.sample(300, g)[0]
    signs = torch.cat(problem.network.preactivations(points)[:2], 1)[:, unknown].sign()
    neurons = torch.randint(0, signs.shape[1], (len(signs),), generator=g)
    sides = signs[torch.arange(len(signs)), neurons]
    keep = torch.rand(signs.shape, generator=g) > 0.3
    signs = torch.where(keep, signs, 0.0)
    signs[torch.arange(len(signs)), neurons] = 0
    assert not bool(dual.excluded(signs, neurons, sides, 60, NEVER).any())
    assert bool(dual.excluded(signs, neurons, -sides, 60, NEVER).any())


@pytest.mark.parametrize("seed", [0, 1])
def test_systems_of_parts_hold_in_rational_arithmetic(seed: int) -> None:
    """y and the rows in terms of what is left, against the equations that they solve."""
    problem = small(seed, "leaky", 2)
    gradients = rj.Gradients(problem)
    lift = lifted(gradients.chain.sample(0), torch.ones(3).double())
    g, count = torch.Generator().manual_seed(seed), len(lift.neurons.units.mid)
    slopes, fixed = torch.rand(5, count, generator=g).double(), torch.rand(5, count, generator=g) > 0.5
    neurons, rows = eliminated(lift, slopes, fixed, rj.Rigorous())
    zeta, free = torch.randn(lift.base.mid.shape[0], generator=g).double(), torch.randn(count, generator=g).double()
    for part in range(5):
        y = neurons.base.mid[part] @ zeta + neurons.units.mid[part] @ free
        w = torch.where(fixed[part], slopes[part] * y, free)
        assert torch.allclose(y, lift.neurons.base.mid @ zeta + lift.neurons.units.mid @ w, atol=1e-12)
        out = rows.base.mid[part] @ zeta + rows.units.mid[part] @ free
        assert torch.allclose(out, lift.rows.base.mid @ zeta + lift.rows.units.mid @ w, atol=1e-12)
        assert not bool(neurons.units.mid[part][:, fixed[part]].any() | rows.units.mid[part][:, fixed[part]].any())


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
@pytest.mark.parametrize("seed", [0, 1])
def test_constraints_that_exclude_the_centre(seed: int, activation: str) -> None:
    net = network(seed, activation)
    x = torch.full((1, *net.input_shape), 0.1).double()
    problem = rj.Problem(net, rj.LpBall(x, 0.6))
    centre = net.preactivations(x)[0]
    low, high = (torch.full_like(centre, end) for end in (-inf, inf))
    low[0, 0], high[0, 0] = (0.02, inf) if centre[0, 0] < 0 else (-inf, -0.02)
    points = problem.bound.sample(500, torch.Generator().manual_seed(1))[0]
    z = net.preactivations(points)[0]
    rows = testing.true_jacobians(net, points[((low <= z) & (z <= high)).all(1)]).flatten(2).abs().sum(2)
    found = SplitNorm(5, 20).rows(rj.Gradients(problem.constrained(1, rj.Interval(low, high))), inf)[0]
    assert bool((found >= rows * (1 - 1e-12)).all())


def test_elsewhere_it_is_the_p_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(0, "relu")
    x = torch.full((1, 5), 0.1).double()
    given = rj.Gradients(given=rj.Gradients(rj.Problem(net, rj.LpBall(x, 0.5))).chain)
    whole, point = (rj.Gradients(rj.Problem(net, rj.LpBall(x, radius))) for radius in (inf, 0.0))
    wide = rj.Gradients(rj.Problem(net, rj.LpBall(x, 1.0)))
    for gradients in (whole, point, given, wide):
        monkeypatch.setattr(module, "_MOST", 2 if gradients is wide else 400)
        found = SplitNorm(2, 3).rows(gradients, inf)
        assert torch.equal(found, rj.QuadraticNorm().rows(gradients, inf))


@pytest.mark.parametrize("settings", [(0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0)])
def test_settings_are_checked(settings: tuple[int, int, float]) -> None:
    with pytest.raises(rj.InvalidRequest):
        SplitNorm(*settings)


@pytest.mark.slow
def test_norms_on_random_networks() -> None:
    testing.check_norm_method(SplitNorm(8, 40))
