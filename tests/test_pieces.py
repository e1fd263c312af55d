"""Parts of regions at points of neurons' ranges, and parts of balls: they cover the region, and bounds hold in each."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.activations import ReLU6, cuts_of
from recurjac.branching.branched import NormOver
from recurjac.branching.pool import Goals
from recurjac.region import BoundBall, BoundBox, BoundPiece
from recurjac.search import point_jacobian
from recurjac.testing.networks import KINDS, random_network

SMOOTH = ("tanh", "sigmoid", "arctan", "softplus", "gelu", "silu", "sin", "mixed")
KINKED = ("relu", "leaky", "abs", "hard_tanh", "relu6")
BALLS = (1.0, 2.0, inf)


def dense(activation: str, seed: int, sizes: tuple[int, ...] = (3, 4, 4, 1)) -> rj.Network:
    """Dense layers with weights that make most neurons unstable."""
    if activation == "mixed":
        return random_network("mixed", seed, True, width=4, depth=2).flattened_output().output(0)
    g = torch.Generator().manual_seed(seed)
    layers = [
        (torch.randn(n, m, generator=g).double() * (2 / m) ** 0.5, torch.randn(n, generator=g).double() / 3)
        for m, n in pairwise(sizes)
    ]
    own = ReLU6() if activation == "relu6" else KINDS[activation]
    return rj.load(layers, activation=own)


def problem_of(activation: str, seed: int, ball: float, radius: float = 0.7) -> rj.Problem:
    network = dense(activation, seed)
    x = torch.full((1, *network.input_shape), 0.1, dtype=torch.float64)
    return rj.Problem(network, rj.LpBall(x, radius, ball), pre=rj.HalfSpaces(2))


def sampled(problem: rj.Problem, p: float, count: int = 3000) -> float:
    points = problem.bound.sample(count, torch.Generator().manual_seed(0))[0]
    rows = point_jacobian(problem.network, points)[:, 0]
    return float(rows.norm(1 if p == inf else 2 if p == 2 else inf, dim=1).max())


@pytest.mark.parametrize(("activation", "ball"), list(zip([*SMOOTH, *KINKED], BALLS * 5, strict=False)))
def test_pieces_hold_and_more_of_them_are_never_worse(activation: str, ball: float) -> None:
    problem, p = problem_of(activation, 3, ball), {1.0: 1, 2.0: 2, inf: inf}[ball]
    uppers = []
    for parts in (1, 8):
        method = rj.Branched(brancher=rj.PieceBisection(), limit=rj.Limit(seconds=600, parts=parts))
        uppers.append(float(rj.lipschitz(problem, p=p, method=method, search=rj.Search(work=0)).upper))
    assert uppers[1] <= uppers[0]
    assert uppers[1] < uppers[0] * (1 - 1e-6)
    assert uppers[1] >= sampled(problem, p) * (1 - 1e-9)


@pytest.mark.parametrize("activation", [*SMOOTH, *KINKED])
def test_every_point_lies_in_a_part_whose_slopes_hold(activation: str) -> None:
    """Also after several divisions: bounds of pre-activations and of slopes hold at every point of a part."""
    problem, g = problem_of(activation, 0, inf), torch.Generator().manual_seed(0)
    points = problem.bound.sample(400, g)[0]
    z = problem.network.preactivations(points)
    parts = [problem]
    for _ in range(2):
        parts = [half for part in parts for half in rj.PieceBisection().divide(part)]
    covered = torch.zeros(len(points), dtype=torch.bool)
    for part in parts:
        state = part.preactivations()
        inside = torch.ones(len(points), dtype=torch.bool)
        for k, known in part.known.items():
            inside &= ((z[k - 1] >= known.lower - 1e-12) & (z[k - 1] <= known.upper + 1e-12)).flatten(1).all(1)
        strict = inside.clone()
        for k, known in part.known.items():
            strict &= ((z[k - 1] > known.lower + 1e-9) & (z[k - 1] < known.upper - 1e-9)).flatten(1).all(1)
        covered |= inside
        assert not bool(strict.any()) or not bool(state.empty.any())
        for k in range(1, problem.network.depth):
            mine, (slopes, pre) = z[k - 1][strict], (state.slopes(k), state.pre(k))
            assert bool(((mine >= pre.lower - 1e-9) & (mine <= pre.upper + 1e-9)).all())
            here = state.stage(k).activation.slope_range(rj.Interval(mine, mine), rj.Fast())
            assert bool(((here.lower >= slopes.lower - 1e-9) & (here.upper <= slopes.upper + 1e-9)).all())
    assert bool(covered.all())


@pytest.mark.parametrize("activation", ["hard_tanh", "relu6"])
def test_kinked_networks_become_exact(activation: str) -> None:
    """Where all neurons are divided at their kinks, the bound is what a point attains; three pieces too."""
    problem = problem_of(activation, 1, inf, 0.5)
    method = rj.Branched(brancher=rj.PieceBisection(), limit=rj.Limit(seconds=600, parts=400, tolerance=1e-9))
    found = rj.lipschitz(problem, method=method, search=rj.Search(work=1e8))
    assert float(found.upper) <= float(found.lower) * (1 + 1e-6)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_cuts_leave_less_width(name: str) -> None:
    g = torch.Generator().manual_seed(1)
    low = 3 * torch.randn(1, 200, generator=g).double()
    z = rj.Interval(low, low + 4 * torch.rand(1, 200, generator=g).double())
    cut, able = cuts_of(KINDS[name], z)
    inside = (z.lower < cut) & (cut < z.upper)
    assert bool(inside[able].all())
    wide = KINDS[name].slope_range(z, rj.Fast()).width > 1e-6
    assert bool(able[wide].float().mean() > 0.9) or not bool(wide.any())


def test_constraints_leave_the_jump_out_on_the_right_side() -> None:
    problem = problem_of("hard_tanh", 1, inf, 3.0)
    for end, above, slope in ((-0.4, True, 1.0), (-0.4, False, 0.0), (0.9, True, 0.0), (0.9, False, 1.0)):
        at = torch.full((1, 4), end, dtype=torch.float64)
        part = problem.constrained(1, rj.Interval(at, at + 0.3) if above else rj.Interval(at - 0.3, at))
        state = part.preactivations()
        touches, slopes = ((state.pre(1).lower if above else state.pre(1).upper) == at), state.slopes(1)
        assert bool(touches.any())
        assert bool((slopes.lower[touches] == slope).all() and (slopes.upper[touches] == slope).all())


def pieces(p: float, seed: int, n: int = 4) -> tuple[BoundPiece, Tensor]:
    """A random piece of a ball, and points of it."""
    g = torch.Generator().manual_seed(seed)
    ball = rj.LpBall(torch.randn(1, n, generator=g).double(), 1.0, p).bind((n,), torch.float64, torch.device("cpu"))
    assert isinstance(ball, BoundBall)
    a, b = (ball.x + 1.2 * torch.randn(1, n, generator=g).double() for _ in range(2))
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    piece = BoundPiece.of(ball, BoundBox.between(low, high))
    points = ball.sample(20000, g)[0]
    return piece, points[((points >= low) & (points <= high)).all(1)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_forms_over_pieces_of_balls(p: float, seed: int) -> None:
    """Never below a point; for l1 balls as large as the value of a linear programme."""
    piece, points = pieces(p, seed)
    g = torch.Generator().manual_seed(seed)
    forms = torch.randn(1, 1, 30, 4, generator=g).double()
    upper = piece.support_function_(rj.Rigorous().exact(forms.clone()), rj.Rigorous()).upper()[0, 0]
    box = piece.box(rj.Fast())
    if len(points):
        assert bool((points @ forms[0, 0].mT <= upper).all())
        assert bool(((points >= box.lower) & (points <= box.upper)).all())
        assert not bool(piece.empty.any())
    if p == 1:
        c, r = piece.ball.x[0].numpy(), float(piece.ball.radius[0])
        rows, ends = np.vstack([np.hstack([np.eye(4), -np.eye(4)]), np.hstack([-np.eye(4), -np.eye(4)]),
                                np.r_[np.zeros(4), np.ones(4)][None]]), np.r_[c, -c, r]  # fmt: skip
        limits = [*zip(piece.piece.low[0].tolist(), piece.piece.high[0].tolist(), strict=True), *[(0, None)] * 4]
        for form, most in zip(forms[0, 0].numpy(), upper.tolist(), strict=True):
            found = linprog(-np.r_[form, np.zeros(4)], A_ub=rows, b_ub=ends, bounds=limits)
            assert bool(piece.empty.any()) or not found.success or abs(-found.fun - most) <= 1e-9


@pytest.mark.parametrize("clip", [False, True])
def test_caps_cover_an_l1_ball(clip: bool) -> None:
    g = torch.Generator().manual_seed(0)
    network = dense("arctan", 0, (5, 6, 6, 1))
    x = torch.randn(2, 5, generator=g).double()
    ball = rj.LpBall(x, 0.6, 1.0, clip=(-2.2, 1.6) if clip else None)
    parts = [rj.Problem(network, ball)]
    points = parts[0].bound.sample(2000, g)
    for _ in range(2):
        parts = [half for part in parts for half in rj.VertexCaps().divide(part)]
    covered = torch.zeros(points.shape[:2], dtype=torch.bool)
    for part in parts:
        box = part.bound.box(rj.Rigorous()).map(lambda t: t.unsqueeze(1))
        inside = ((points >= box.lower) & (points <= box.upper)).flatten(2).all(2)
        covered |= inside & ~part.bound.empty.unsqueeze(1)
    assert bool(covered.all())


@pytest.mark.parametrize("activation", ["arctan", "sin", "relu"])
def test_caps_hold_and_pay(activation: str) -> None:
    network = dense(activation, 2, (5, 5, 5, 1))
    problem = rj.Problem(network, rj.LpBall(torch.full((1, 5), 0.1).double(), 0.8, 1.0))
    uppers = []
    for parts in (1, 30):
        method = rj.Branched(rj.JacobianNorm(rj.XLinear()), rj.VertexCaps(), rj.Limit(seconds=600, parts=parts))
        uppers.append(float(rj.lipschitz(problem, method=method, search=rj.Search(work=0)).upper))
        assert uppers[-1] >= sampled(problem, inf) * (1 - 1e-9)
    assert uppers[1] < uppers[0]


def test_branchers_choose_by_their_own_effects() -> None:
    """Signs and pieces are chosen by neurons, also where there are fewer inputs than neurons."""
    network = random_network("relu", 1, False, width=6, depth=2)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 2, 2).double(), 0.5), pre=rj.HalfSpaces(4))
    for brancher in (rj.SignBisection(), rj.PieceBisection()):
        bound = NormOver(rj.JacobianNorm(), inf, inf, problem, brancher)
        effects = bound.bounded(problem, Goals.none(problem.bound.x)).effects
        assert effects is not None
        assert effects.shape == brancher.effects(problem.preactivations()).shape
        assert all(part.known for part in brancher.divided(problem, effects))


@pytest.mark.slow
def test_extensions_accept_them() -> None:
    testing.check_brancher(rj.PieceBisection())
    testing.check_brancher(rj.VertexCaps())
