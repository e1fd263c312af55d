"""Bounds that are linear in x: sound everywhere, never looser than Chords, and of second order at small radii."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor

import recurjac as rj
from recurjac.activations import AbstractActivation, Derivative, LeakyReLU, ReLU, slope_lines, value_lines
from recurjac.arithmetic import AbstractArithmetic, Interval
from recurjac.jacobian import Gradients
from recurjac.network import Network
from recurjac.propagation.forms import DenseForms
from recurjac.propagation.joint import planes
from recurjac.relaxations import LinearRelaxation
from recurjac.testing.networks import KINDS, random_network, true_jacobians
from tests.helpers import examples
from tests.marks import every_seed

BALLS = ((0.0, inf), (1e-6, 2.0), (0.02, 1.0), (0.1, inf), (0.5, 2.0), (3.0, 1.0), (1e4, inf), (inf, inf))
SHARES = (0.0, 0.05, 0.5, 0.95)
FEW = ("tanh", "gelu", "prelu")
"""Kinds on which a search runs by default; on the others the slow tests do."""


def checked(network: Network, region: rj.LpBall, method: rj.XLinear, looser: float = 1e-12) -> None:
    """No sampled Jacobian is outside, and no bound is looser than that of Chords."""
    found, plain = (rj.jacobian_bounds(network, region, method=m) for m in (method, rj.Chords()))
    bound = region.bind(network.input_shape, network.dtype, network.device)
    points = torch.cat([bound.x.unsqueeze(1), bound.sample(40, torch.Generator().manual_seed(1))], 1)
    for x, low, high in zip(points, found.lower, found.upper, strict=True):
        true = true_jacobians(network, x)
        slack = 1e-12 * true.abs().max() + 1e-300
        assert bool((true >= low - slack).all())
        assert bool((true <= high + slack).all())
    slack = looser * plain.upper.abs().nan_to_num(0, 0, 0).max()
    assert bool((found.upper <= plain.upper + slack).all())
    assert bool((found.lower >= plain.lower - slack).all())


@pytest.mark.parametrize(
    ("kind", "residual"),
    [
        pytest.param(k, r, marks=[pytest.mark.slow] if r and k not in FEW else [])
        for k in [*sorted(KINDS), "mixed"]
        for r in (False, True)
    ],
)
def test_sampled_jacobians_are_inside(kind: str, residual: bool) -> None:
    first = sum(map(ord, kind)) + 3 * residual  # all balls are met by some kinds
    for seed, (radius, p) in enumerate((BALLS * 2)[first % 8 : first % 8 + 2]):
        network = random_network(kind, seed % 3, residual)
        x = torch.randn(1 + seed % 2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        checked(network, rj.LpBall(x, radius, p), rj.XLinear())


@pytest.mark.parametrize(
    "kind", [k if k in FEW else pytest.param(k, marks=pytest.mark.slow) for k in [*sorted(KINDS), "mixed"]]
)
def test_whatever_a_search_finds_is_sound(kind: str) -> None:
    """One output, where each form has a search of its own, and several; in a batch and alone."""
    for seed, (radius, p) in enumerate(BALLS[3:5]):
        network = random_network(kind, seed, seed == 1, depth=2)
        x = torch.randn(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for asked, point in ((network, x), (network.output(1), x[:1])):
            checked(asked, rj.LpBall(point, radius, p), rj.XLinear(2))


def test_a_search_does_not_loosen_and_leaves_weights_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Tanh(), torch.nn.Linear(9, 9), torch.nn.Tanh(),
                                 torch.nn.Linear(9, 1)).double()  # fmt: skip
    x = torch.zeros(1, 4, dtype=torch.float64)
    net, ball = rj.load(module, x), rj.LpBall(x, 0.3)
    plain, found = (rj.lipschitz(net, ball, method=m, search=rj.Search(work=0)).upper for m in
                    (rj.XLinear(), rj.XLinear(20)))  # fmt: skip
    assert float(found.detach()) < float(plain.detach())
    assert all(p.grad is None for p in module.parameters())
    plain.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
    assert module[0].weight.grad is not None


def test_the_slack_is_of_second_order() -> None:
    """Halving a small radius divides the distance to the true range by about four, and that of Chords by two."""
    network = random_network("tanh", 0, False)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slack = {}
    for method in (rj.Chords(), rj.XLinear()):
        for radius in (2e-3, 1e-3):
            b = rj.jacobian_bounds(network, rj.LpBall(x, radius, 2), method=method)
            hessians = torch.func.jacrev(lambda v: true_jacobians(network, v[None])[0])(x[0]).flatten(-2)
            reach = radius * torch.linalg.vector_norm(hessians, dim=-1)
            true = true_jacobians(network, x)[0]
            slack[method.title, radius] = float((b.upper[0] - true - reach).max())
    assert slack["Chords", 2e-3] < 3 * slack["Chords", 1e-3]
    assert 3.5 < slack["x-linear", 2e-3] / slack["x-linear", 1e-3] < 4.5
    assert slack["x-linear", 1e-3] < 0.05 * slack["Chords", 1e-3]


@pytest.mark.parametrize("p", [1.0, 2.0, inf])
def test_upper_and_attained_constants_meet_at_small_radii(p: float) -> None:
    """Many inputs, where sampled points hardly see how the gradient changes."""
    g = torch.Generator().manual_seed(0)
    sizes = (60, 20, 20, 1)
    weights = [(torch.randn(b, a, generator=g, dtype=torch.float64) / a**0.5, None) for a, b in pairwise(sizes)]
    network, x = rj.load(weights, activation="tanh"), torch.randn(1, 60, generator=g, dtype=torch.float64)
    centre, found = (rj.lipschitz(network, rj.LpBall(x, r, p), method=rj.XLinear()) for r in (0.0, 0.002))
    assert float(found.upper - found.lower) < 0.1 * float(found.lower - centre.lower)


def _inside(lines: LinearRelaxation, v: Tensor, w: Tensor, slack: Tensor) -> None:
    low, high = (
        slope[0, 0] * v + intercept[0, 0]
        for slope, intercept in (
            (lines.lower_slope, lines.lower_intercept), (lines.upper_slope, lines.upper_intercept),
        )
    )  # fmt: skip
    assert bool((low <= w + slack).all())
    assert bool((high >= w - slack).all())
    assert bool((w.abs() <= lines.size[0, 0] + slack).all())


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 4))])
@pytest.mark.parametrize("activation", examples(AbstractActivation))
def test_lines_of_slopes_and_values_hold(activation: AbstractActivation, seed: int) -> None:
    if isinstance(vars(activation).get("slope"), Tensor):
        pytest.skip("a slope for each neuron")
    g = torch.Generator().manual_seed(seed)
    width = 10 ** (torch.rand(1, 40, generator=g, dtype=torch.float64) * 6 - 4)
    a = torch.randn(1, 40, generator=g, dtype=torch.float64) * 2
    a[0, :4], a[0, 4:8] = 0.0, -width[0, 4:8]
    width[0, 8:10] = 0.0
    a = a.abs() + 0.1 if activation.limited else a  # inside of every domain
    z = Interval(a, a + width)
    v = (a + torch.linspace(0, 1, 201, dtype=torch.float64).unsqueeze(1) * width).clamp(max=z.upper)
    values = activation.value(v)
    for share in SHARES:
        lines = value_lines(activation, z, share, rj.Rigorous())
        terms = 1 + values.abs() + (lines.upper_slope[0, 0].abs() + lines.lower_slope[0, 0].abs()) * v.abs()
        _inside(lines, v, values, 1e-13 * terms)
        lines = slope_lines(activation, z, share, rj.Rigorous())
        slope = activation.slope_range(Interval.point(v), rj.Rigorous())
        for end in (slope.lower, slope.upper):
            terms = 1 + end.abs() + (lines.upper_slope[0, 0].abs() + lines.lower_slope[0, 0].abs()) * v.abs()
            _inside(lines, v, end, 1e-13 * terms)


@pytest.mark.parametrize("activation", [ReLU(), LeakyReLU(0.3), LeakyReLU(2.5), LeakyReLU(-1.0)], ids=repr)
def test_a_step_has_slanted_lines(activation: AbstractActivation) -> None:
    """On the narrow side, the line reaches the other end of the step; it is constant on the wide side."""
    z = Interval(torch.tensor([[-1.0, -3.0]]).double(), torch.tensor([[3.0, 1.0]]).double())
    lines = slope_lines(activation, z, 0.5, rj.Rigorous())
    flat = (lines.upper_slope[0, 0] == 0), (lines.lower_slope[0, 0] == 0)
    assert flat[0].tolist() == ([True, False] if activation.slope_below(z.lower)[0, 0] < 1 else [False, True])  # type: ignore[attr-defined]
    assert flat[1].tolist() == [not f for f in flat[0].tolist()]


@every_seed
@pytest.mark.parametrize("arithmetic", [rj.Fast(), rj.Rigorous()], ids=lambda a: type(a).__name__)
def test_planes_hold_at_every_corner(arithmetic: AbstractArithmetic, seed: int) -> None:
    """For all shares, also of points, of infinite and of huge intervals, and of slopes that are known."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randn(2, 1, 1, 60, generator=g, dtype=torch.float64).sort(0).values
    d = torch.randn(2, 1, 1, 60, generator=g, dtype=torch.float64).sort(0).values
    y[1, ..., :5], d[1, ..., 3:9] = y[0, ..., :5], d[0, ..., 3:9]
    y[0, ..., 10], y[1, ..., 11], y[:, ..., 12] = -inf, 1e200, torch.tensor([[[-inf]], [[inf]]])
    d[:, ..., 12] = d[0, ..., 12]
    shares = (torch.rand(60, generator=g, dtype=torch.float64), torch.rand(60, generator=g, dtype=torch.float64))
    slope = Interval(d[0], d[1])
    none = LinearRelaxation.proportional(slope.lower)
    found = planes(Interval(y[0], y[1]), slope, shares, none, arithmetic)
    lines, slack = found.gradient, 0.0 if arithmetic.rigorous else 1e-14
    for v in y.clamp(-1e3, 1e3):
        for t in d:
            low = found.lower_weight * t + lines.lower_slope * v + lines.lower_intercept
            high = found.upper_weight * t + lines.upper_slope * v + lines.upper_intercept
            assert bool((low <= v * t + slack + 1e-13 * v.abs()).all())
            assert bool((high >= v * t - slack - 1e-13 * v.abs()).all())
    known = d[0] == d[1]
    assert bool((lines.exact == known).all())
    assert bool((found.upper_weight[known] == 0).all())


def test_parts_of_a_chain_rule_and_the_whole_space_are_bounded_by_chords() -> None:
    network = random_network("tanh", 0, False)
    everywhere = rj.LpBall(torch.zeros(2, 2), inf)
    for region, method in ((everywhere, rj.XLinear()), (rj.LpBall(torch.zeros(2, 2), 0.1), rj.Reversed(rj.XLinear()))):
        plain = rj.Chords() if isinstance(method, rj.XLinear) else rj.Reversed(rj.Chords())
        found, chords = (rj.jacobian_bounds(network, region, method=m) for m in (method, plain))
        assert torch.equal(found.upper, chords.upper)


def test_tangents_of_each_output() -> None:
    network = random_network("tanh", 1, True)
    x = torch.zeros(2, 2, 2, dtype=torch.float64)
    problem = rj.Problem(network, rj.LpBall(x, 0.1))
    prepared = rj.XLinear().prepare(Gradients(problem))
    whole = prepared.push_all()
    units = torch.eye(4, dtype=torch.float64)[:3].reshape(1, 3, 1, 2, 2)
    one = prepared.push(DenseForms(units, problem.arithmetic))
    for k in range(3):
        assert torch.allclose(one.upper[:, k, 0], whole.upper[:, k, k], rtol=1e-12)


@pytest.mark.parametrize("kind", ["relu", "leaky", "prelu", "hard_tanh"])
def test_float32_bounds_hold_for_the_network_in_float64(kind: str) -> None:
    """With rounding covered, and no tolerance but that of the samples."""
    network = random_network(kind, 2, True, torch.float32)
    x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(2))
    for radius in (0.0, 1e-3, 0.2):
        found = rj.jacobian_bounds(network, rj.LpBall(x, radius), method=rj.XLinear())
        assert found.rigorous
        bound = rj.LpBall(x, radius).bind((2, 2), torch.float64, torch.device("cpu"))
        points = torch.cat([bound.x.unsqueeze(1), bound.sample(60, torch.Generator().manual_seed(1))], 1)[0]
        true = true_jacobians(network.to(torch.float64), points)
        assert bool((true >= found.lower.double() - 1e-14).all())
        assert bool((true <= found.upper.double() + 1e-14).all())


def test_a_derivative_is_refused_where_it_is_not_continuous() -> None:
    with pytest.raises(ValueError, match="second derivative"):
        Derivative(KINDS["hard_swish"]).slope(torch.zeros(1))  # type: ignore[arg-type]
