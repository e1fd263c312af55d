"""Ranges that use half-spaces of constraints, slopes beside a kink, corners of slopes, and the sign brancher."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import recurjac as rj
from recurjac import testing
from recurjac.branching.cells import HalfSpaceSystem
from recurjac.branching.signs import divisible, influences, with_signs
from recurjac.jacobian import Gradients
from recurjac.preactivation.halfspaces import HalfSpaceRanges, Pull
from recurjac.problem import join
from recurjac.testing.networks import random_network
from tests.helpers import refused

NONE = rj.Search(work=0)
KINDS = ("relu", "steep", "abs", "hard_tanh", "tanh")


def constrained(kind: str, seed: int, radius: float, p: float = inf, stages: tuple[int, ...] = (1, 2)) -> rj.Problem:
    """A problem of three samples, some of whose neurons are restricted to one side of 0, or to a small interval."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 2, 2, generator=g, dtype=torch.float64)
    problem = rj.Problem(random_network(kind, seed, seed % 2 == 1), rj.LpBall(x, radius, p))
    for k in stages:
        z = problem.network.preactivations(problem.bound.x)[k - 1]
        kind_of = torch.randint(4, z.shape, generator=g)
        end = torch.full_like(z, inf)
        low = torch.where((kind_of == 0) & (z > 0), 0.0, torch.where(kind_of == 1, z - 0.1, -end))
        high = torch.where((kind_of == 0) & (z < 0), 0.0, torch.where(kind_of == 1, z + 0.2, end))
        problem = problem.constrained(k, rj.Interval(low, high))
    return problem


def members(problem: rj.Problem, count: int = 1000) -> tuple[Tensor, Tensor]:
    """Points of the region, (batch, N, *input), and which satisfy the constraints."""
    points = problem.bound.sample(count, torch.Generator().manual_seed(1))
    points = torch.cat([problem.bound.x.unsqueeze(1), points], 1)
    return points, problem.holds(points)


@pytest.mark.parametrize(("kind", "p"), [*((kind, inf) for kind in KINDS), ("relu", 2)])
def test_ranges_with_half_spaces_hold_their_points(kind: str, p: float) -> None:
    """Everywhere where constraints hold; tighter than CROWN on the whole."""
    seen, wide, narrow = 0, 0.0, 0.0
    for seed in range(2):
        problem = constrained(kind, seed, 0.5, p)
        plain, found = problem.preactivations(), problem.by(rj.HalfSpaces(5)).preactivations()
        points, inside = members(problem)
        for k in range(1, problem.network.depth):
            z = problem.network.preactivations(points.flatten(0, 1))[k - 1].reshape(*points.shape[:2], -1)
            low, high = (t.flatten(1).unsqueeze(1) for t in (found.pre(k).lower, found.pre(k).upper))
            fine = ((low - 1e-12 <= z) & (z <= high + 1e-12)).all(2)
            assert bool((fine | ~inside).all())
            wide, narrow = wide + float(plain.pre(k).width.sum()), narrow + float(found.pre(k).width.sum())
        seen += int(inside.sum())
    assert seen > 30
    assert narrow < wide


@pytest.mark.parametrize("seed", range(2))
def test_multipliers_reach_the_linear_program(seed: int) -> None:
    """Where the first stage is decided, bounds of the second are linear programs; the search comes close to them."""
    g = torch.Generator().manual_seed(seed)
    problem = rj.Problem(
        random_network("relu", seed, False), rj.LpBall(torch.randn(1, 2, 2, generator=g).double(), 0.7)
    )
    signs = problem.network.preactivations(problem.bound.x)[0].sign()
    part = with_signs(problem, [1], signs)
    w1, b1 = problem.network.stages[0].edges[0].operator, problem.network.stages[0].bias(rj.Fast())
    assert b1 is not None
    eye = torch.eye(4, dtype=torch.float64).reshape(4, 2, 2)
    first = w1.push(rj.Fast().exact(eye)).mid.mT.numpy()
    second = problem.network.stages[1]
    bias = second.bias(rj.Fast())
    assert bias is not None
    matrix = second.edges[0].operator.push(rj.Fast().exact(torch.eye(7, dtype=torch.float64))).mid.mT.numpy()
    d = (signs[0] > 0).double().numpy()
    x, side = problem.bound.x.flatten().numpy(), signs[0].numpy()
    rows, shift = matrix * d @ first, matrix * d @ b1.mid.numpy() + bias.mid.numpy()
    state = part.preactivations()
    plain = state.pre(2)
    rule = HalfSpaceRanges(300)
    got = rule.bound(part.preactivations(), 2, None)
    limits = list(zip(x - 0.7, x + 0.7, strict=True))
    for i in range(7):
        for sign, mine, crown in ((1, got.upper, plain.upper), (-1, -got.lower, -plain.lower)):
            best = linprog(-sign * rows[i], A_ub=-side[:, None] * first, b_ub=side * b1.mid.numpy(), bounds=limits)
            true = -best.fun + sign * shift[i]
            assert float(mine[0, i]) >= true - 1e-8
            assert float(mine[0, i]) - true <= 0.02 * max(1.0, float(crown[0, i]) - true)


def test_half_spaces_prove_that_parts_are_empty() -> None:
    """x + y >= 1/2 and -x - y >= 0 exclude each other, but each neuron's range does not."""
    w = torch.tensor([[1.0, 1.0], [-1.0, -0.9]], dtype=torch.float64)
    net = rj.load([(w, torch.tensor([-0.5, 0.0]).double()), (torch.ones(1, 2).double(), None)], activation="relu")
    problem = rj.Problem(net, rj.Box([[-1.0, -1.0]], [[1.0, 1.0]]))
    both, one = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])
    for signs, empty in ((both, True), (one, False)):
        part = with_signs(problem, [1], signs.double())
        assert part.by(rj.HalfSpaces(50)).preactivations().empty.tolist() == [empty]
        assert part.preactivations().empty.tolist() == [False]
        system = HalfSpaceSystem.of(part.preactivations())
        point, depth, multipliers = system.solved()
        assert system.empty(multipliers).tolist() == [empty]
        assert (float(depth[0]) < 0) == empty
        assert bool(part.holds(point.unsqueeze(1))[0, 0]) != empty


@pytest.mark.parametrize("kind", ["relu", "abs"])
def test_any_multipliers_give_valid_bounds(kind: str) -> None:
    """Also those of no search, as long as the constraints allow their signs."""
    problem = constrained(kind, 3, 0.4)
    state, k = problem.preactivations(), 3
    units = torch.eye(7, dtype=torch.float64).reshape(1, 7, 1, 7).expand(3, -1, -1, -1)
    pull = Pull.of(state, k, torch.cat([units, -units], 1))
    g = torch.Generator().manual_seed(0)
    start = pull.begin()
    wild = pull._allowed(start.of([t + torch.randn(t.shape, generator=g, dtype=t.dtype) for t in start.tensors()]))
    upper = pull.upper(wild, state.arithmetic)
    points, inside = members(problem)
    z = problem.network.preactivations(points.flatten(0, 1))[k - 1].reshape(*points.shape[:2], -1)
    fine = (torch.cat([z, -z], 2) <= upper.unsqueeze(1) + 1e-12).all(2)
    assert int(inside.sum()) > 10
    assert bool((fine | ~inside).all())


def test_slopes_beside_a_kink_are_those_inside_of_the_constraint() -> None:
    """|x| as two ReLUs: for x >= 0 the slope is 1, and for x <= 0 it is -1; both hold at 0."""
    net = rj.load(
        [(torch.tensor([[1.0], [-1.0]]).double(), None), (torch.ones(1, 2).double(), None)], activation="relu"
    )
    for radius in (1.0, 0.0):
        problem = rj.Problem(net, rj.LpBall(torch.zeros(1, 1).double(), radius))
        for sign, slope in ((1.0, 1.0), (-1.0, -1.0)):
            part = with_signs(problem, [1], sign * torch.tensor([[1.0, -1.0]]).double())
            found = rj.jacobian_bounds(part)
            assert (float(found.lower), float(found.upper)) == pytest.approx((slope, slope), rel=1e-14)
            assert float(rj.lipschitz(part, method=rj.JacobianNorm(), search=NONE).upper) == pytest.approx(
                1.0, rel=1e-14
            )
        assert float(rj.lipschitz(problem, method=rj.ExactNorm(), search=NONE).upper) == pytest.approx(1.0, rel=1e-14)
        point = problem.constrained(1, rj.Interval.point(torch.zeros(1, 2).double()))
        assert float(rj.jacobian_bounds(point).upper) == pytest.approx(1.0, rel=1e-14)
        assert float(rj.jacobian_bounds(point).lower) == pytest.approx(-1.0, rel=1e-14)


@pytest.mark.parametrize("kind", ["relu", "mixed"])
def test_corners_bound_all_slopes(kind: str) -> None:
    """Random slopes within their ranges, and tighter than the entries; every norm."""
    network = random_network(kind, 2, True, width=4, depth=2)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(2, 2, 2).double(), torch.tensor([0.3, 1.0]).double()))
    gradients = Gradients(problem)
    state, fast = gradients.state, rj.Fast()
    g = torch.Generator().manual_seed(0)
    for p in (1, 2, inf):
        for q in (1, 2, inf):
            upper = rj.CornerNorm(8).norm(gradients, p, q)
            plain = rj.JacobianNorm().norm(gradients, p, q)
            assert bool((upper <= plain * (1 + 1e-12)).all())
            for _ in range(20):
                nodes: list[Tensor] = [torch.eye(4, dtype=torch.float64).reshape(1, 4, 2, 2).expand(2, -1, -1, -1)]
                for k, stage in enumerate(network.stages, 1):
                    z = sum(e.operator.push(fast.exact(nodes[e.source])).mid for e in stage.edges)
                    assert isinstance(z, Tensor)
                    if not stage.linear:
                        s = state.slopes(k)
                        share = torch.rand(s.shape, generator=g, dtype=torch.float64).round(decimals=0)
                        z = z * (s.lower + share * s.width).unsqueeze(1)
                    nodes.append(z)
                vectors = torch.randn(2, 4, 50, generator=g, dtype=torch.float64)
                vectors = torch.cat([vectors, vectors.sign(), torch.eye(4).double().expand(2, -1, -1)], 2)
                gain = torch.einsum("brk,brn->bkn", nodes[-1], vectors).norm(q, dim=1) / vectors.norm(p, dim=1)
                assert bool((gain.amax(1) <= upper * (1 + 1e-12)).all())
    rows = rj.CornerNorm(8).rows(gradients, 2)
    assert bool((rows <= rj.JacobianNorm().rows(gradients, 2) * (1 + 1e-12)).all())


def test_branched_by_signs_is_sound_and_tighter() -> None:
    network = random_network("relu", 1, False, width=4, depth=2)
    problem = rj.Problem(network, rj.LpBall(torch.zeros(1, 2, 2).double(), 0.5))
    true = rj.lipschitz(problem, method=rj.ExactNorm(rj.Limit(seconds=600, parts=10**5, tolerance=1e-9)), search=NONE)
    method = rj.Branched(brancher=rj.SignBisection(), limit=rj.Limit(seconds=600, parts=16))
    found = rj.lipschitz(problem, method=method, search=NONE)
    assert true.status == "exact"
    assert float(true.lower) <= float(found.upper)
    assert float(found.upper) < float(rj.lipschitz(problem, method=rj.JacobianNorm(), search=NONE).upper)


def test_influences_are_those_of_unstable_neurons() -> None:
    problem = rj.Problem(random_network("relu", 1, True), rj.LpBall(torch.zeros(2, 2, 2).double(), 0.4))
    state = problem.preactivations()
    for k, weights in influences(state).items():
        assert bool(((weights > 0) == ~state.slopes(k).is_point).all())
    assert divisible(problem) == list(influences(state))


def test_settings_that_make_no_sense_are_refused() -> None:
    refused(lambda: rj.CornerNorm(-1), rj.InvalidRequest, ["-1", "20"])
    refused(lambda: rj.CornerNorm(40), rj.InvalidRequest, ["40"])
    tanh = rj.Problem(random_network("tanh", 1, False), rj.LpBall(torch.zeros(1, 2, 2).double(), 0.4))
    refused(lambda: rj.lipschitz(tanh, method=rj.ExactNorm(), search=NONE), rj.InvalidRequest, ["two pieces"])
    assert join([tanh]).bound.batch == 1
    assert np.isfinite(float(rj.lipschitz(tanh, method=rj.CornerNorm(), search=NONE).upper))


@pytest.mark.parametrize("radius", [0.5, inf])
def test_no_multipliers_prove_that_a_cell_with_a_point_is_empty(radius: float) -> None:
    """Each cell is that of a point of the region; random multipliers, and those that the method finds."""
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        network = random_network("relu", seed, False)
        problem = rj.Problem(network, rj.LpBall(torch.randn(8, 2, 2, generator=g, dtype=torch.float64), radius))
        points = problem.bound.sample(1, g)[:, 0]
        z = network.preactivations(points)
        signs = torch.cat([z[k].flatten(1).sign() for k in range(2)], 1)
        system = HalfSpaceSystem.of(with_signs(problem, [1, 2], signs).preactivations())
        assert system.matrix.shape == (8, 14, 4)
        _, depth, found = system.solved()
        assert bool((depth > 0).all()) or radius == inf
        few = torch.rand(found.shape, generator=g) < 0.4
        for multipliers in (found, torch.rand(found.shape, generator=g).double(), few.double()):
            assert not bool(system.empty(multipliers).any())


@pytest.mark.slow
def test_new_methods_pass_the_checks_of_extensions() -> None:
    testing.check_norm_method(rj.CornerNorm(4))
    testing.check_preactivation(rj.HalfSpaces(3))
    testing.check_brancher(rj.SignBisection())


class Branches(torch.nn.Module):
    """One branch with a ReLU whose lines are free, and one that does not read it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4), torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x)) + torch.relu(self.c(torch.tanh(self.b(x))))


def test_stages_that_do_not_read_free_lines_are_bounded() -> None:
    torch.manual_seed(0)
    net = rj.load(Branches().double().requires_grad_(False), torch.zeros(1, 3).double())
    state = rj.Problem(net, rj.LpBall(torch.zeros(1, 3).double(), 1.0, 2)).preactivations()
    for k in range(1, net.depth):
        found = HalfSpaceRanges(3).bound(state, k, None)
        assert bool((found.lower <= found.upper).all())
        assert bool(found.lower.isfinite().all())


def test_stages_beside_a_constrained_image_are_bounded() -> None:
    """Of four entries of a window, the maximum of one pair does not read that of the other, which is constrained."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).double()
    network = rj.load(module, torch.zeros(1, 1, 6, 6).double())
    problem = rj.Problem(network, rj.LpBall(torch.rand(1, 1, 6, 6).double(), 0.3))
    points = problem.bound.x + 0.2 * (problem.bound.sample(200, torch.Generator().manual_seed(1))[0] - problem.bound.x)
    values = network.preactivations(points)
    for k in range(1, network.depth):
        middle = network.preactivations(problem.bound.x)[k - 1]
        found = problem.constrained(k, rj.Interval(middle - 0.1, middle + 0.1)).by(rj.HalfSpaces(3)).preactivations()
        inside = ((values[k - 1] - middle).abs() <= 0.1).flatten(1).all(1)
        assert inside.any()
        for j in range(1, network.depth):
            z = values[j - 1][inside]
            assert ((found.pre(j).lower - 1e-12 <= z) & (z <= found.pre(j).upper + 1e-12)).all()


def test_stages_of_more_axes_than_a_constrained_one_are_bounded_as_alone() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 8), torch.nn.LeakyReLU(), torch.nn.Unflatten(1, (2, 4)), torch.nn.Conv1d(2, 3, 2)]
    module = torch.nn.Sequential(*layers, torch.nn.LeakyReLU(), torch.nn.Flatten(), torch.nn.Linear(9, 2)).double()
    x = torch.rand(2, 4).double()
    network, middle = rj.load(module, x[:1]), module[0](x).detach()
    whole, *alone = (
        rj.Problem(network, rj.LpBall(x[rows], 0.5))
        .constrained(1, rj.Interval(middle[rows] - 0.1, middle[rows] + 0.1))
        .by(rj.HalfSpaces(5))
        .preactivations()
        for rows in ([0, 1], [0], [1])
    )
    for i, one in enumerate(alone):
        for k in (1, 2):
            torch.testing.assert_close(whole.pre(k).lower[i], one.pre(k).lower[0], rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(whole.pre(k).upper[i], one.pre(k).upper[0], rtol=1e-9, atol=1e-12)
