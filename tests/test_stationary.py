"""Stationary points: proved where they are known to be, nowhere else, and enclosures of Hessians hold the true ones."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recurjac as rj
from recurjac.activations import AbstractActivation, Cube, Derivative, Square, Tanh
from recurjac.activations import Identity as NoActivation
from recurjac.activations.smooth import AbstractSmooth
from recurjac.applications.krawczyk import Krawczyk, StationaryKind, kinds
from recurjac.arithmetic import Fast, Interval, Rigorous
from recurjac.cli import main
from recurjac.jacobian import AbstractJacobianMethod
from recurjac.jacobian.hessian import Derivatives, derivatives
from recurjac.network import Edge, Network, Stage, chain
from recurjac.operators import Dense
from tests.helpers import examples, refused

FAST, RIGOROUS = Fast(), Rigorous()
PS = [1, 2, inf]
MINIMUM, MAXIMUM, SADDLE = StationaryKind.MINIMUM, StationaryKind.MAXIMUM, StationaryKind.SADDLE


def t(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def eye(n: int) -> Tensor:
    return torch.eye(n, dtype=torch.float64)


def random_net(seed: int, sizes: tuple[int, ...], activation: str) -> Network:
    g = np.random.default_rng(seed)
    layers = [(g.normal(size=(m, n)) / n**0.5, g.normal(size=m)) for n, m in pairwise(sizes)]
    return rj.load(layers, activation=activation)


def waves(n: int) -> Network:
    """Σ cos(x_i), stationary where all x_i are multiples of π: maximal at even ones, minimal at odd ones."""
    return rj.load([(eye(n), None), (torch.ones(1, n, dtype=torch.float64), None)], activation="cos")


def with_line(activation: AbstractActivation, slope: float) -> Network:
    """σ(x) + slope x."""
    return beside(activation, eye(1), slope * eye(1))


def beside(activation: AbstractActivation, bent: Tensor, straight: Tensor) -> Network:
    """bent σ(x) + straight x for matrices (outputs, 1)."""
    shape = (len(bent),)
    first = Stage((Edge(0, Dense.matrix(eye(1))),), (), activation, (1,))
    return Network(
        (1,), (first, Stage((Edge(1, Dense.matrix(bent)), Edge(0, Dense.matrix(straight))), (), NoActivation(), shape))
    )


# Second derivatives of activations

ALL = [e for e in examples(AbstractActivation) if not isinstance(e.values[0], Derivative)]


def bends(activation: AbstractActivation) -> bool:
    return activation.curvature_range(Interval.point(torch.zeros(1, 2, dtype=torch.float64)), FAST) is not None


SMOOTH = [e for e in examples(AbstractSmooth) if bends(e.values[0])]  # type: ignore[arg-type]
KINKED = [e for e in ALL if not bends(e.values[0])]  # type: ignore[arg-type]
every_smooth = pytest.mark.parametrize("activation", SMOOTH)


def inside(activation: AbstractSmooth, z: Tensor) -> Tensor:
    """Those of the numbers (n,) that are well inside the domain."""
    out = activation.excluded(Interval(z - 1e-2, z + 1e-2))
    return z if out is None else z[~out]


def bend(activation: AbstractSmooth, z: Tensor) -> Tensor:
    """σ'' by differentiating σ'."""
    z = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(activation.slope(z).sum() + 0 * z.sum(), z)
    return found


def test_all_common_smooth_activations_have_one() -> None:
    names = {e.values[0].name for e in SMOOTH}  # type: ignore[union-attr]
    assert names >= {"tanh", "sigmoid", "softplus", "gelu", "gelu_tanh", "silu", "mish", "arctan", "sin", "cos", "erf"}


@pytest.mark.parametrize("activation", KINKED)
def test_only_those_that_jump_have_none(activation: AbstractActivation) -> None:
    if isinstance(activation, AbstractSmooth):
        beside = [bend(activation, t(-3.0, -2.0, -1.0, 0.0, 0.1, 1.0, 2.0, 3.0) + step) for step in (-1e-9, 1e-9)]
        assert float((beside[0] - beside[1]).abs().max()) > 0.1
    else:
        assert activation.piecewise_linear


@every_smooth
def test_curvature_is_the_derivative_of_the_slope(activation: AbstractSmooth) -> None:
    z = inside(activation, torch.cat([torch.linspace(-30, 30, 2001, dtype=torch.float64), t(-1e4, -500, 500, 650)]))
    own = activation.curvature(z)
    assert own is not None
    truth = bend(activation, z)
    torch.testing.assert_close(own, truth, rtol=1e-10, atol=1e-12)


def boxes(dtype: torch.dtype) -> Interval:
    """Points, narrow and wide intervals anywhere, far ones, and such with infinite ends: (1, n)."""
    g = torch.Generator().manual_seed(1)
    middle = 12 * torch.rand(600, generator=g, dtype=torch.float64) - 6
    half = 10 ** (6 * torch.rand(600, generator=g, dtype=torch.float64) - 5)
    half[::7] = 0
    lower, upper = (
        torch.cat([middle - half, t(-inf, -inf, 0, -1e3, 40, -50)]),
        torch.cat([middle + half, t(inf, -1, inf, 1e3, 90, -39)]),
    )
    return Interval(lower.to(dtype).unsqueeze(0), upper.to(dtype).unsqueeze(0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@every_smooth
def test_curvature_range_holds_the_curvature(activation: AbstractSmooth, dtype: torch.dtype) -> None:
    """But for some units in the last place of σ' and σ'', as no rounding error is proved."""
    z = boxes(dtype)
    bounds = activation.to(dtype, torch.device("cpu")).curvature_range(z, FAST)
    assert bounds is not None
    share = torch.linspace(0, 1, 101, dtype=torch.float64).reshape(-1, 1, 1)
    low, high = z.lower.double().clamp(-600, 600), z.upper.double().clamp(-600, 600)
    points = torch.cat(
        [low + share * (high - low), torch.minimum(torch.maximum(t(-2, -1, 1e-9, 1, 2).reshape(-1, 1, 1), low), high)]
    )
    truth = bend(activation, points)
    eps = torch.finfo(dtype).eps
    slack = 16 * eps * (truth.abs() + activation.slope(points).abs() + 1) * (1 + 3 * points.abs().clamp(max=9))
    assert (bounds.lower.double() <= truth + slack).all()
    assert (truth <= bounds.upper.double() + slack).all()


@every_smooth
def test_curvature_range_is_tight_on_narrow_intervals(activation: AbstractSmooth) -> None:
    z = inside(activation, torch.linspace(-5.013, 5, 101, dtype=torch.float64)).unsqueeze(0)  # not where σ' jumps
    point, narrow = (activation.curvature_range(Interval(z - r, z + r), FAST) for r in (0.0, 1e-6))
    assert point is not None
    assert narrow is not None
    torch.testing.assert_close(point.lower, point.upper, rtol=1e-13, atol=1e-13)
    assert (narrow.width < 1e-4 * (1 + narrow.magnitude)).all()


# Interval matrices


@pytest.mark.parametrize("seed", range(3))
def test_products_of_interval_matrices_hold_in_exact_arithmetic(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Interval:
        middle = torch.randn(shape, generator=g, dtype=torch.float64) * 10.0 ** (seed * 3)
        half = torch.rand(shape, generator=g, dtype=torch.float64) * (0.0 if seed == 0 else 0.1)
        return Interval(middle - half, middle + half)

    a, b = draw(2, 3, 4), draw(2, 2, 4)
    bounds = RIGOROUS.matmul(a, b)
    for pick in itertools.product((0, 1), repeat=2):
        x, y = ((i.lower, i.upper)[p] for i, p in zip((a, b), pick, strict=True))
        for at in itertools.product(range(2), range(3), range(2)):
            row, column = x[at[0], at[1]].tolist(), y[at[0], at[2]].tolist()
            exact = sum((Fraction(u) * Fraction(v) for u, v in zip(row, column, strict=True)), Fraction(0))
            assert bounds.lower[at].item() <= exact <= bounds.upper[at].item()
    scale = (a.magnitude @ b.magnitude.mT).max()
    assert (bounds.width <= (1e-13 if seed == 0 else 1) * scale).all()


@pytest.mark.parametrize("arithmetic", [FAST, RIGOROUS], ids=["fast", "rigorous"])
def test_an_infinite_end_bounds_nothing(arithmetic: Fast | Rigorous) -> None:
    one = Interval.point(torch.ones(1, 1, 2, dtype=torch.float64))
    for low, high in ((0.0, inf), (-inf, 0.0), (-inf, inf)):
        product = arithmetic.matmul(Interval(t([[low, 0.0]]), t([[high, 0.0]])), one)
        assert (product.lower.item(), product.upper.item()) == (-inf, inf)


def test_krawczyk_decides_quadratics_exactly() -> None:
    """g(x) = x - c over [-1, 1]: a zero inside only for |c| < 1, and nothing is proved at the border or for NaN."""
    c = t([0.0], [0.5], [1.0], [-1.0], [1.0 - 2**-53], [3.0], [inf])
    m = torch.zeros_like(c)
    gradient = FAST.enclose(-c, torch.where(c.isinf(), inf, -c))
    test = Krawczyk.of(m, Interval(m - 1, m + 1), gradient, Interval.point(torch.ones(7, 1, 1, dtype=torch.float64)))
    assert test.proved.tolist() == [True, True, False, False, False, False, False]
    none = Krawczyk.of(
        m[:3],
        Interval(m[:3] - 1, m[:3] + 1),
        gradient[:3],
        Interval(t([[-1.0]], [[0.0]], [[-inf]]), t([[2.0]], [[0.0]], [[inf]])),
    )
    assert not none.proved.any()


def test_kinds_of_hessians() -> None:
    q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    values = t([1, 2, 3, 1e-3], [-1, -2, -3, -1e-3], [1, -1, 2, 3], [0, 0, 1, 1], [1, 1, 1, 1e-12])
    middle = q @ torch.diag_embed(values) @ q.mT
    found = kinds(Interval(middle - 1e-9, middle + 1e-9))
    assert [k.value for k in found] == ["minimum", "maximum", "saddle", "undecided", "undecided"]
    assert kinds(Interval(t([[-inf]]), t([[inf]]))) == [StationaryKind.UNDECIDED]


# Hessians


def over(net: Network, x: Tensor, radius: float, method: AbstractJacobianMethod) -> Derivatives:
    return derivatives(rj.Problem(net, rj.LpBall(x, radius), arithmetic=FAST), method)


def true_hessian(net: Network, x: Tensor) -> Tensor:
    """By automatic differentiation, (n, n)."""
    n = x.numel()
    found = torch.autograd.functional.hessian(lambda y: net(y.unsqueeze(0)).sum(), x)
    assert isinstance(found, Tensor)
    return found.reshape(n, n)


def holds(net: Network, x: Tensor, radius: float, method: AbstractJacobianMethod, count: int = 4) -> None:
    """x: a batch."""
    found = over(net, x, radius, method)
    g = torch.Generator().manual_seed(0)
    for i, centre in enumerate(x):
        for k in range(count):
            share = 2 * torch.rand(centre.shape, generator=g, dtype=torch.float64) - 1
            point = centre + radius * (share.sign() if k % 2 else share)
            assert found.hessian[i].contains(true_hessian(net, point)).all(), (i, k)
            moving = point.clone().requires_grad_()
            (slope,) = torch.autograd.grad(net(moving.unsqueeze(0)).sum(), moving)
            assert found.gradient[i].contains(slope.flatten()).all()


@pytest.mark.parametrize("radius", [0.0, pytest.param(1e-3, marks=pytest.mark.slow), 0.3])
@every_smooth
def test_hessians_of_random_networks(activation: AbstractSmooth, radius: float) -> None:
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(m, n, generator=g, dtype=torch.float64) / n for n, m in pairwise((3, 5, 4, 1))]
    net = chain([(w, w.sum(1)) for w in weights], [activation] * 2)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    holds(net, x, radius, rj.FastLip() if radius < 0.1 else rj.Intersection(rj.Chords(), rj.RecurJac()))
    if radius == 0:
        found = over(net, x, 0.0, rj.FastLip())
        assert (found.hessian.width <= 1e-5 * (1 + found.hessian.magnitude)).all()
        assert (found.gradient.width <= 1e-5 * (1 + found.gradient.magnitude)).all()


class Residual(nn.Module):
    """x is read three times, once by the output itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(3, 6), nn.Linear(6, 1)
        self.e = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        h = h + nn.functional.gelu(self.b(h)) + self.c(x)
        return self.d(torch.sin(h)) + self.e(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Residual, (3,)),
        (
            lambda: nn.Sequential(
                nn.Conv2d(1, 2, 2), nn.Tanh(), nn.AvgPool2d(2), nn.Softplus(), nn.Flatten(), nn.Linear(2, 1)
            ),
            (1, 3, 3),
        ),
    ],
    ids=["residual", "convolution"],
)
def test_hessians_of_any_normal_form(model: Callable[[], nn.Module], shape: tuple[int, ...], radius: float) -> None:
    torch.manual_seed(0)
    net = rj.load(model().double(), torch.zeros(1, *shape, dtype=torch.float64))
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    holds(net, x, radius, rj.RecurJac())


# Known stationary points


def only(found: rj.StationaryPoints) -> rj.StationaryPoint:
    ((point,),) = found.points
    return point


def test_bowls_and_saddles_of_squares() -> None:
    shift = t(1.0, -2.0)
    for signs, kind in ((t(1.0, 2.0), MINIMUM), (t(-1.0, -2.0), MAXIMUM), (t(1.0, -2.0), SADDLE)):
        net = rj.load([(eye(2), -shift), (signs.unsqueeze(0), None)], activation="square")
        point = only(rj.stationary_points(net, rj.LpBall(t(0.0, 0.0), 4.0), output=0))
        assert point.kind is kind
        assert point.enclosure.contains(shift).all()
        assert (point.enclosure.width < 1e-6).all()
        assert (point.box.width >= 2).all()


@pytest.mark.parametrize("p", PS)
def test_a_landscape_of_waves(p: float) -> None:
    """In a ball of radius 3.5 around (1.6, 1.5) lie (0, 0), (0, π), (π, 0), (π, π), in the l1 norm as well."""
    x = t(1.6, 1.5)
    found = rj.stationary_points(waves(2), rj.LpBall(x, 3.5, p), output=0, search=rj.Newton(starts=64))
    truth = {(i, j): t(i * math.pi, j * math.pi) for i in range(-2, 4) for j in range(-2, 4)}
    seen = {}
    for point in found.points[0]:
        held = [at for at, where in truth.items() if point.box.contains(where).all()]
        assert len(held) == 1
        assert point.enclosure.contains(truth[held[0]]).all()
        assert held[0] not in seen
        seen[held[0]] = point.kind
        corners = torch.maximum((point.box.lower - x).abs(), (point.box.upper - x).abs())
        assert torch.linalg.vector_norm(corners, p) <= 3.5
    want = {(0, 0): MAXIMUM, (0, 1): SADDLE, (1, 0): SADDLE, (1, 1): MINIMUM}
    assert {k: v for k, v in seen.items() if k in want} == want
    distances = [float((q.point - x).abs().max()) for q in found.points[0]]
    assert distances == sorted(distances)


def test_bumps_of_tanh_and_valleys_of_softplus() -> None:
    """tanh(x + 1) - tanh(x - 1) is greatest at 0, softplus(x) + softplus(-x) least; of a sum over inputs, likewise."""
    signs = torch.tensor([1.0, 1, 1, -1, -1, -1], dtype=torch.float64)
    bump = rj.load([(torch.cat([eye(3), eye(3)]), signs), (signs.unsqueeze(0), None)], activation="tanh")
    valley = rj.load([(torch.cat([eye(3), -eye(3)]), None), (torch.ones(1, 6).double(), None)], activation="softplus")
    for net, kind in ((bump, MAXIMUM), (valley, MINIMUM)):
        point = only(rj.stationary_points(net, rj.LpBall(t(0.2, -0.1, 0.3), 1.0, 2), output=0))
        assert point.kind is kind
        assert point.enclosure.contains(torch.zeros(3).double()).all()
        assert (point.enclosure.width < 1e-5).all()
        assert (point.box.width > 0.1).all()


def test_a_margin_a_clip_box_and_a_shape() -> None:
    """Of x² and 2 x the margin is stationary at 1."""
    both = beside(Square(), t([1.0], [0.0]), t([0.0], [2.0]))
    region = rj.LpBall(t(0.5), 3.0, clip=(0.0, 1.5))
    point = only(rj.stationary_points(both.margin(0, 1), region, output=0))
    assert point.enclosure.contains(t(1.0)).all()
    assert (point.box.lower >= 0).all()
    assert (point.box.upper <= 1.5).all()
    assert rj.stationary_points(both, region, output=1).count == (0,)
    assert rj.stationary_points(both.margin(0, 1), rj.LpBall(t(0.5), 3.0, clip=(0.0, 1.0)), output=0).count == (0,)
    assert rj.stationary_points(both.margin(0, 1), rj.Box(t(1.0), t(1.0)), output=0).count == (0,)
    assert rj.stationary_points(both.margin(0, 1), rj.Box(t(-inf), t(inf)), output=0).count == (1,)
    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(1, 3, 2), nn.GELU(), nn.Flatten(), nn.Linear(12, 2)).double()
    net = rj.load(image, torch.zeros(1, 1, 3, 3, dtype=torch.float64))
    for point in rj.stationary_points(net, rj.LpBall(torch.zeros(2, 1, 3, 3), 1.0), output=1).points[1]:
        assert point.box.shape == (1, 3, 3)


def test_batches_are_their_samples() -> None:
    x = t([0.3], [3.0], [8.0])
    together = rj.stationary_points(waves(1), rj.LpBall(x, 1.0), output=0)
    assert together.count == (1, 1, 0)
    assert [p[0].kind for p in together.points[:2]] == [MAXIMUM, MINIMUM]
    assert "none" not in together.notes[0]
    assert [bool(n) for n in together.notes] == [False, False, True]
    alone = rj.stationary_points(waves(1), rj.LpBall(x[1], 1.0), output=0)
    assert only(alone).enclosure.contains(t(math.pi)).all()


def test_float32() -> None:
    """Boxes are of float32 numbers, and certainly inside the ball that was asked for."""
    layers = [(torch.eye(2), torch.tensor([0.1, -0.3])), (torch.ones(1, 2), None)]
    net = rj.load(layers, activation="cos", dtype=torch.float32)
    x = t(0.1, 0.1)
    point = only(rj.stationary_points(net, rj.LpBall(x, 0.9, 2), output=0))
    truth = t(-float(torch.tensor(0.1)), float(torch.tensor(0.3)))
    assert point.box.lower.dtype == torch.float32
    assert point.kind is MAXIMUM
    assert point.enclosure.map(Tensor.double).contains(truth).all()
    corners = torch.maximum((point.box.lower.double() - x).abs(), (point.box.upper.double() - x).abs())
    assert torch.linalg.vector_norm(corners, 2) <= 0.9


# Nothing is proved that is not there


def test_almost_stationary_is_not_stationary() -> None:
    """x³ + c x has no stationary point for c > 0, a degenerate one for c = 0, and two for c < 0."""
    cube = Cube()
    for c in (1e-6, 0.0):
        found = rj.stationary_points(
            with_line(cube, c), rj.LpBall(t([0.0], [1e-4]), 1.0), output=0, method=rj.FastLip(), search=FEW
        )
        assert found.count == (0, 0), c
    points = rj.stationary_points(
        with_line(cube, -0.03), rj.LpBall(t(0.02), 1.0), output=0, method=rj.FastLip()
    ).points[0]
    assert sorted((round(float(p.point), 6), p.kind.value) for p in points) == [(-0.1, "maximum"), (0.1, "minimum")]


@pytest.mark.parametrize("shift", [1e-3, 1e-12])
def test_a_near_miss_of_two_slopes(shift: float) -> None:
    """tanh(x) - (1 + c) x has slopes of at most -c, which it has at 0."""
    assert rj.stationary_points(
        with_line(Tanh(), -(1 + shift)), rj.LpBall(t(0.0), 2.0), output=0, search=FEW
    ).count == (0,)


FEW = rj.Newton(starts=5, steps=12)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "erf"])
def test_where_slopes_only_vanish_far_out(activation: str) -> None:
    """Monotone activations have no stationary point, however flat they are far out."""
    net = rj.load([(eye(1), None), (eye(1), None)], activation=activation)
    for region in (rj.LpBall(t([0.0], [40.0], [-40.0], [-700.0]), 3.0), rj.LpBall(t(0.0), inf)):
        assert not any(rj.stationary_points(net, region, output=0, method=rj.FastLip(), search=FEW).count)


def test_linear_and_constant_outputs() -> None:
    """A gradient that is constant is 0 nowhere or everywhere: never at one point alone."""
    for row in (t([1.0, 2.0]), t([0.0, 0.0])):
        found = rj.stationary_points(rj.load([(row, None)], activation="relu"), rj.LpBall(t(0.0, 0.0), 1.0), output=0)
        assert (found.count, found.rigorous) == ((0,), True)
        assert "there may still be some" in found.notes[0]
    ridge = rj.load([(t([1.0, 1.0]), None), (t([1.0]), None)], activation="square")
    assert rj.stationary_points(ridge, rj.LpBall(t(0.1, 0.0), 1.0), output=0, search=FEW).count == (0,)
    unread = rj.load([(t([1.0, 0.0]), None), (t([1.0]), None)], activation="tanh")
    assert rj.stationary_points(unread, rj.LpBall(t(0.1, 0.0), 1.0), output=0, search=FEW).count == (0,)


@pytest.mark.parametrize("activation", ["square", "tanh", "gelu", "sin"])
@pytest.mark.parametrize("size", [pytest.param(1e100, marks=pytest.mark.slow), 1e300])
def test_huge_weights_fail_closed(activation: str, size: float) -> None:
    """What overflows bounds nothing; what is proved is true."""
    one = next(e.values[0] for e in SMOOTH if e.values[0].name == activation)  # type: ignore[union-attr]
    net = chain([(t([size], [-size]), t(1.0, 2.0)), (t([size, 1.0]), None)], [one])  # type: ignore[list-item]
    for point in rj.stationary_points(
        net, rj.LpBall(t([0.0], [1.0]), 1.0), output=0, method=rj.FastLip(), search=FEW
    ).points[0]:
        slope = over(net, point.point.unsqueeze(0), 0.0, rj.FastLip())
        assert slope.gradient.lower.isfinite().all()


@pytest.mark.parametrize(
    ("activation", "seed", "p"), [("gelu", 0, 1), pytest.param("sin", 1, inf, marks=pytest.mark.slow)]
)
def test_never_in_a_ball_that_is_free_of_them(activation: str, seed: int, p: float) -> None:
    net = random_net(seed, (2, 8, 1), activation)
    found = rj.stationary_points(net, rj.LpBall(t(0.0, 0.0), 3.0), output=0, search=FEW)
    for point in found.points[0]:
        x = point.point + t([0.1, 0.05], [-0.4, 0.3])
        free = rj.stationary_free_radius(net, x, output=0, p=p, method=rj.RecurJac(), tolerance=0.05)
        far = torch.maximum((point.enclosure.lower - x).abs(), (point.enclosure.upper - x).abs())
        assert (free.radius < torch.linalg.vector_norm(far, p, dim=1)).all()
        assert (
            rj.stationary_free_radius(net, point.point, output=0, p=p, tolerance=0.5).radius
            < point.enclosure.width.sum()
        )


def test_random_networks_have_some() -> None:
    """So that the test above is not empty; true Hessians at the points have the signs that their kinds say."""
    seen = set()
    for activation, seed in (("gelu", 0), ("sin", 1)):
        net = random_net(seed, (2, 8, 1), activation)
        for point in rj.stationary_points(net, rj.LpBall(t(0.0, 0.0), 3.0), output=0, search=FEW).points[0]:
            signs = torch.linalg.eigvalsh(true_hessian(net, point.point)).sign().unique().tolist()
            assert {MINIMUM: [1.0], MAXIMUM: [-1.0], SADDLE: [-1.0, 1.0]}[point.kind] == signs
            assert point.box.contains(point.enclosure.lower).all()
            assert point.box.contains(point.enclosure.upper).all()
            seen.add(point.kind)
    assert seen >= {MAXIMUM, SADDLE}


@pytest.mark.slow
def test_methods_and_what_it_says() -> None:
    net = random_net(1, (2, 8, 1), "sin")
    region = rj.LpBall(t(0.0, 0.0), 3.0)
    best = rj.stationary_points(net, region, output=0, search=FEW)
    plain = rj.stationary_points(
        net, region, output=0, method=rj.FastLip(), pre=rj.IBP(), arithmetic=Fast(), search=FEW
    )
    assert plain.count[0] >= 1
    assert best.count[0] >= 1
    assert best.rigorous
    assert best.reason == ""
    assert re.match(
        r"StationaryPoints\(output 0, .*(minimum|maximum|saddle).*; Chords ∩ RecurJac-B, rigorous", repr(best)
    )
    assert re.match(
        r"StationaryPoint\((minimum|maximum|saddle) at \(.*\) up to .*, alone within ±", repr(best.points[0][0])
    )
    assert repr(rj.stationary_points(net, rj.LpBall(t(0.0, 0.0), 0.0), output=0)).startswith(
        "StationaryPoints(output 0, none proved"
    )


# Wrong requests

ONE = waves(2)
WRONG: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    "output": (
        lambda: rj.stationary_points(ONE, rj.LpBall(t(0, 0), 1), output=1),
        rj.InvalidRequest,
        ("class 1", "0 to 0"),
    ),
    "shape": (
        lambda: rj.stationary_points(ONE, rj.LpBall(t(0, 0, 0), 1), output=0),
        rj.InvalidRegion,
        ("(3,)", "(2,)"),
    ),
    "relu": (
        lambda: rj.stationary_points(random_net(0, (2, 3, 1), "relu"), rj.LpBall(t(0, 0), 1), output=0),
        rj.InvalidRequest,
        ("relu", "not continuous", "tanh"),
    ),
    "softsign": (
        lambda: rj.stationary_points(random_net(0, (2, 3, 1), "softsign"), rj.LpBall(t(0, 0), 1), output=0),
        rj.InvalidRequest,
        ("softsign",),
    ),
    "inputs": (
        lambda: rj.stationary_points(waves(65), rj.LpBall(torch.zeros(65), 1), output=0),
        rj.InvalidRequest,
        ("65 inputs", "64", "radius of 0"),
    ),
    "given": (
        lambda: rj.stationary_points(ONE, rj.LpBall(t(0, 0), 1), output=0, pre=rj.Given([t([-1, -1])], [t([1, 1])])),
        rj.InvalidRequest,
        ("given", "Crown()"),
    ),
    "starts": (lambda: rj.Newton(starts=0), rj.InvalidRequest, ("starts=0", "at least 1")),
    "steps": (lambda: rj.Newton(steps=-1), rj.InvalidRequest, ("steps=-1",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_requests_are_refused(case: str) -> None:
    refused(*WRONG[case])


# The command line

LANDSCAPE = ("landscape", "waves.npz", "--input", "x.npy", "--method", "one-pass")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("waves.npz", W0=np.eye(2), W1=np.ones((1, 2)), activation="cos")
    np.savez("kinked.npz", W0=np.eye(2), W1=np.ones((1, 2)), activation="relu")
    np.savez("wide.npz", W0=np.eye(65), W1=np.ones((1, 65)), activation="cos")
    np.save("x.npy", np.array([[0.3, 0.1], [1.5, 1.5]]))
    np.save("wide.npy", np.zeros((1, 65)))


@pytest.mark.usefixtures("files")
def test_the_command_reports_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    code = main([*LANDSCAPE, "--existence", "1", "--norm", "2", "--json", "r.json"])
    out, err = capsys.readouterr()
    rows = json.loads(Path("r.json").read_text())["results"]
    assert code == 0
    assert list(rows[0])[:5] == ["index", "class", "radius", "witness", "seconds"]
    assert "stationary points that exist within l2 1" in out
    assert "maximum" in out
    assert "for 1 of 2 results that there is no stationary point in the ball" in err
    assert "there may be some" not in err  # its table proves that there is none
    ((point,), none) = (r["stationary_points"] for r in rows)
    want = only(rj.stationary_points(waves(2), rj.LpBall(t(0.3, 0.1), 1.0, 2), output=0))
    assert (point["kind"], point["lower"]) == ("maximum", want.box.lower.tolist())
    # what underflow may lose depends on how many samples are bounded together
    assert point["most"] == pytest.approx(want.enclosure.upper.tolist(), rel=1e-12, abs=1e-300)
    assert none == []
    assert [bool(r["existence_note"]) for r in rows] == [False, True]
    assert rows[0]["existence_rigorous"]
    assert main([*LANDSCAPE, "--json", "s.json", "--quiet"]) == 0
    plain = json.loads(Path("s.json").read_text())["results"]
    assert not [k for k in plain[0] if k.startswith(("existence", "stationary"))]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("waves.npz --input x.npy --existence 0", ("--existence 0", "positive")),
        ("waves.npz --input x.npy --existence -1", ("--existence -1", "positive")),
        ("kinked.npz --input x.npy --existence 1", ("relu", "not continuous")),
        ("wide.npz --input wide.npy --existence 1", ("65 inputs",)),
    ],
)
def test_the_command_refuses(arguments: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["landscape", *arguments.split()])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert not [w for w in words if w not in err.splitlines()[-1]]


# Inputs that the region fixes


def test_inputs_without_width_are_fixed() -> None:
    """The others have stationary points where a network of those alone has them."""
    network = waves(4)
    low, high = t([2.8, 1.0, -0.3, 2.0], [-0.5, 3.0, 3.0, 4.0]), t([3.4, 1.0, 0.3, 2.0], [0.5, 3.0, 3.3, 4.0])
    region = rj.Box(low, high)
    found = rj.stationary_points(network, region, output=0)
    assert found.fixed == ((1, 3), (1, 3))
    assert found.count == (1, 1)
    assert found.rigorous == rj.stationary_points(waves(2), rj.Box(low[:, ::2], high[:, ::2]), output=0).rigorous
    assert "; 2 inputs fixed; " in repr(found)
    wanted = (([math.pi, 1.0, 0.0, 2.0], SADDLE), ([0.0, 3.0, math.pi, 4.0], SADDLE))
    for (point,), (where, kind), a, b in zip(found.points, wanted, low, high, strict=True):
        assert point.kind is kind
        assert torch.allclose(point.point, t(*where), rtol=0, atol=1e-12)
        for box in (point.box, point.enclosure):
            assert bool(
                ((a <= box.lower) & (box.lower <= t(*where)) & (t(*where) <= box.upper) & (box.upper <= b)).all()
            )
    plain = rj.stationary_points(network, rj.Box(low, high + 1e-3 * (low == high)), output=0)
    assert plain.fixed == ((), ())


def test_inputs_past_the_limit_may_be_fixed() -> None:
    """As pixels of which only some move, each sample its own."""
    x, radius = torch.zeros(2, 100, dtype=torch.float64), torch.zeros(2, 100, dtype=torch.float64)
    radius[0, 3], radius[1, [0, 99]] = 0.5, 0.7
    found = rj.stationary_points(waves(100), rj.LpBall(x, radius), output=0)
    assert [len(f) for f in found.fixed] == [99, 98]
    assert [p.kind for (p,) in found.points] == [MAXIMUM, MAXIMUM]
    with pytest.raises(rj.InvalidRequest, match=r"100 inputs; .*a radius of 0"):
        rj.stationary_points(waves(100), rj.LpBall(x, 0.5), output=0)
    radius[0, 3] = 0.0
    found = rj.stationary_points(waves(100), rj.LpBall(x, radius), output=0)
    assert found.count == (0, 1)


def test_boxes_beside_fixed_inputs_lie_in_the_region_that_was_asked_about() -> None:
    """Ends that float32 does not have are moved outwards for bounds, but boxes stay inside."""
    network = waves(2).to(torch.float32)
    low, high = t([-1 / 3, 0.0]), t([1 / 3, 0.0])
    found = rj.stationary_points(network, rj.Box(low, high), output=0)
    assert found.fixed == ((1,),)
    (point,) = found.points[0]
    assert bool(((low[0] <= point.box.lower.double()) & (point.box.upper.double() <= high[0])).all())
