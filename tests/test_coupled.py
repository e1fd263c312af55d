"""Norms by points and tangents: never below what a point attains, and below the P-chain where slopes are coupled."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import AbstractActivation
from recurjac.norms import CoupledNorm
from recurjac.norms import coupled as module
from recurjac.quadratic import proved
from recurjac.quadratics import Coefficients
from tests.helpers import examples
from tests.marks import SEEDS, every_seed, in_turn
from tests.test_dual import network

ALL = [e for e in examples(AbstractActivation) if isinstance(e.values[0], AbstractActivation)]
QUIET = rj.Search(work=0)


@pytest.mark.parametrize("activation", ALL)
def test_couplings_hold_for_every_element_of_the_derivative(activation: AbstractActivation) -> None:
    shape = (1, 40) if not isinstance(vars(activation).get("slope"), Tensor) else (1, *activation.slope.shape)  # type: ignore[attr-defined]
    g = torch.Generator().manual_seed(0)
    z, c = (torch.randn(shape, generator=g).double() for _ in range(2))
    z.flatten()[::3] = 0.0  # at the kink
    products = activation.couplings(rj.Interval.point(c), rj.Rigorous())
    if not products:
        return
    found = Coefficients.of_tangents(products, torch.zeros(2, 1, c.numel()).double(), rj.Rigorous())
    assert bool(found.zero.all())
    slopes = activation.slope_range(rj.Interval.point(z), rj.Rigorous())
    y, w = (z - c).flatten(), (activation.value(z) - activation.value(c)).flatten()
    tangent = torch.randn(c.numel(), generator=g).double()
    for slope in (slopes.lower, slopes.upper, (slopes.lower + slopes.upper) / 2):
        image = slope.flatten() * tangent
        powers = torch.stack([tangent, image, y * tangent, y * image, w * tangent, w * image]).unsqueeze(1)
        assert bool(
            ((found.terms.mid * powers).sum(0).abs() <= 1e-14 * (1 + (found.terms.mid * powers).abs().sum(0))).all()
        )


def attained(problem: rj.Problem, p: float) -> Tensor:
    """The largest norm of each row at samples: (K,)."""
    points = problem.bound.sample(500, torch.Generator().manual_seed(1))[0]
    rows = testing.true_jacobians(problem.network, points)
    found: Tensor = torch.linalg.vector_norm(rows, {inf: 1, 2: 2, 1: inf}[p], dim=-1).amax(0)
    return found


BALLS = ((inf, inf), (2, 2), (1, 1), (2, inf), (inf, 2))


@pytest.mark.parametrize(("norms", "activation", "seed"), in_turn(BALLS, ["relu", "abs", "hard_tanh", "tanh"], SEEDS))
def test_rows_hold(norms: tuple[float, float], activation: str, seed: int) -> None:
    (p, ball), net = norms, network(seed, activation)
    problem = rj.Problem(net, rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.6, ball))
    found = CoupledNorm(40).rows(rj.Gradients(problem), p)[0]
    assert bool((found >= attained(problem, p) * (1 - 1e-12)).all())
    assert not bool(found.isnan().any())


def test_what_couples_slopes_to_points_pays() -> None:
    """On a network whose slopes exclude each other: |x| + |1 - x| has the slope 0 or ±2, and its P-chain says more."""
    gains = []
    for seed in range(6):
        net = network(seed, "relu")
        problem = rj.Problem(
            net, rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.5), pre=rj.Dual(20, 20)
        )
        most = attained(problem, inf)
        bounds = [rows.rows(rj.Gradients(problem), inf)[0] for rows in (CoupledNorm(150), rj.QuadraticNorm(150))]
        assert bool((bounds[0] >= most * (1 - 1e-12)).all())
        gains.append(float(((bounds[0] - most) / (bounds[1] - most).clamp(min=1e-9)).mean()))
    assert sum(gains) / len(gains) < 0.8


@pytest.mark.parametrize(("activation", "p"), in_turn(["relu", "hard_tanh", "tanh"], [inf, 2]))
def test_any_multipliers_prove_something_true(monkeypatch: pytest.MonkeyPatch, activation: str, p: float) -> None:
    """Each product alone, couplings with either sign, weak and strong."""
    seen = []

    def keep(dual, rows, best, units):  # type: ignore[no-untyped-def]
        seen.append((dual, rows, best, units))
        return proved(dual, rows, best.logs.exp(), best.numbers * units)

    monkeypatch.setattr(module, "proved_safely", keep)
    finite = 0
    for seed in range(2):
        net = network(seed, activation)
        problem = rj.Problem(net, rj.LpBall(torch.full((1, net.input_shape[0]), 0.1).double(), 0.4, p))
        CoupledNorm(0).rows(rj.Gradients(problem), p)
        dual, rows, best, units = seen[-1]
        most, g = attained(problem, p), torch.Generator().manual_seed(seed)
        free = torch.zeros(units.shape[1], dtype=torch.bool)
        free[1:2] = activation == "relu"
        free[7:9] = activation == "relu"
        for number, strength, sign in product(range(units.shape[1]), (0.01, 0.1, 1.0), (1.0, -1.0)):
            if sign < 0 and not free[number]:
                continue
            more = best.numbers.clone()
            more[:, number] += sign * strength * torch.rand(more[:, number].shape, generator=g).double()
            for raised in (-0.3, 0.0, 0.7):
                bound = proved(dual, rows, (best.logs + raised).exp(), more * units)
                assert bool((bound >= most - 1e-12).all())
                finite += int(bound.isfinite().sum())
    assert finite > 100


def test_elsewhere_it_is_the_p_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole space, parts of a chain rule, networks that are too wide, and slopes that are all known."""
    net = network(0, "relu")
    x = torch.full((1, 5), 0.1).double()
    given = rj.Gradients(given=rj.Gradients(rj.Problem(net, rj.LpBall(x, 0.5))).chain)
    monkeypatch.setattr(module, "_MOST", 20)
    wide = rj.load([(torch.randn(20, 5), None), (torch.ones(1, 20), None)], activation="relu")
    whole, point = (rj.Gradients(rj.Problem(net, rj.LpBall(x, radius))) for radius in (inf, 0.0))
    for gradients in (whole, point, given, rj.Gradients(rj.Problem(wide, rj.LpBall(x.float(), 1.0)))):
        found = CoupledNorm(2).rows(gradients, inf)
        assert torch.equal(found, rj.QuadraticNorm().rows(gradients, inf))
        assert bool(found.isfinite().all())


@pytest.mark.parametrize("activation", ["relu", "hard_tanh"])
@every_seed
def test_constraints_that_exclude_the_centre(seed: int, activation: str) -> None:
    """There, slopes that are known of tangents are not those of secants from the centre."""
    net = network(seed, activation)
    x = torch.full((1, *net.input_shape), 0.1).double()
    problem = rj.Problem(net, rj.LpBall(x, 0.6))
    centre = net.preactivations(x)[0]
    low, high = (torch.full_like(centre, end) for end in (-inf, inf))
    low[0, 0], high[0, 0] = (0.02, inf) if centre[0, 0] < 0 else (-inf, -0.02)
    points = problem.bound.sample(500, torch.Generator().manual_seed(1))[0]
    z = net.preactivations(points)[0]
    rows = testing.true_jacobians(net, points[((low <= z) & (z <= high)).all(1)]).flatten(2).abs().sum(2)
    found = CoupledNorm(40).rows(rj.Gradients(problem.constrained(1, rj.Interval(low, high))), inf)[0]
    assert bool(found.isfinite().all())
    assert bool((found >= rows * (1 - 1e-12)).all())


@pytest.mark.slow
@pytest.mark.parametrize("steps", [0, 30])
def test_norms_on_random_networks(steps: int) -> None:
    testing.check_norm_method(CoupledNorm(steps), seed=steps)
